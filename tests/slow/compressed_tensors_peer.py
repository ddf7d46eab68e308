"""Reads a recipe as compressed-tensors does, in an environment of its own, and applies it.

    python compressed_tensors_peer.py RECIPE.yaml NETWORK.py CLASS

Prints, as JSON, the bits that each layer of the network is given.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import yaml
from compressed_tensors.quantization import (  # type: ignore[import-not-found]
    QuantizationConfig,
    apply_quantization_config,
)


def main() -> None:
    recipe = yaml.safe_load(Path(sys.argv[1]).read_text())
    modifier = recipe["quant_stage"]["quant_modifiers"]["QuantizationModifier"]
    spec = importlib.util.spec_from_file_location("network", sys.argv[2])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, sys.argv[3])()
    apply_quantization_config(model, QuantizationConfig(**modifier))
    found = {}
    for name, layer in model.named_modules():
        scheme = getattr(layer, "quantization_scheme", None)
        if scheme is not None:
            inputs = scheme.input_activations
            steps = list(layer.weight_scale.shape)
            found[name] = [scheme.weights.num_bits, inputs.num_bits if inputs else None, steps]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
