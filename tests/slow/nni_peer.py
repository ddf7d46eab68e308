"""Prunes a network with NNI as a config list says; run in NNI's environment, without ours.

    python nni_peer.py TASK.json     # prints the shapes of all parameters, as JSON

The task has the file, the name and the arguments of the network's class, the shape of an
input, and the config list.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch
from nni.compression.pruning import L1NormPruner  # type: ignore[import-not-found]
from nni.compression.speedup import ModelSpeedup  # type: ignore[import-not-found]


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    spec = importlib.util.spec_from_file_location("network", task["file"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model = getattr(module, task["class"])(**task["arguments"]).eval()
    pruner = L1NormPruner(model, task["config_list"])
    _, masks = pruner.compress()
    pruner.unwrap_model()
    example = torch.randn(task["input_shape"])
    graph = torch.fx.symbolic_trace(model)
    ModelSpeedup(model, example, masks, graph_module=graph).speedup_model()
    outputs = model(example)
    shapes = {name: list(each.shape) for name, each in model.named_parameters()}
    print(json.dumps({"shapes": shapes, "outputs": list(outputs.shape)}))


if __name__ == "__main__":
    main()
