"""Whole numbers against floats at batch 1, one thread, dense and with half of the channels gone.

python -m benchmarks.int8           # ResNet-20 and ResNet-56 with ONNX Runtime and OpenVINO

Networks and images are those of AUTOPRUNE_RESNET20, AUTOPRUNE_RESNET56 and AUTOPRUNE_CIFAR10,
else those beside the checkout.
Half of the inner channels of every block is removed by L1: once with widths that are multiples
of 8, once with one channel less than half, since what a search draws is seldom a multiple of
anything. Statistics are gathered anew and nothing is trained, so accuracy tells only what whole
numbers change. Bits are 8 everywhere. Every network is timed in turn with the dense ones, and
with itself as floats. One line of JSON for every network.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.data.cifar10 import Cifar10
from autoprune.data.dataset import Dataset
from autoprune.evaluation.repair import recalibrate
from autoprune.evaluation.workbench import processor_name, to_layout
from autoprune.graph.group import GroupTable
from autoprune.job.spec import ModelSpec, SplitSpec
from autoprune.models.catalog import build_model
from autoprune.policy import LayerDecision, Policy
from autoprune.quantization.quantise import quantise
from autoprune.runtimes import timing
from autoprune.runtimes.catalog import create
from autoprune.runtimes.runtime import Runner, Runtime
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.surgery.examination import examine
from autoprune.surgery.folding import fold
from benchmarks.recorded import CHECKPOINTS, DATA

_BATCH = 50
_WIDTHS = {"dense": None, "half": 1, "half, multiples of 8": 8}


@dataclass(frozen=True)
class Images:
    """Training images that tell statistics and ranges; test images and their labels."""

    train: Tensor
    test: Tensor
    labels: Tensor


def images(count: int) -> Images:
    """Return 500 training images and so many test images, normalised."""
    path = os.environ.get("AUTOPRUNE_CIFAR10", str(DATA / "cifar10.npz"))
    raw = Cifar10(path=path).load()
    dataset = Dataset.from_raw(raw, SplitSpec(search=5000, report=5000))
    part = dataset.report
    test = dataset.normalise(part.inputs[:count])
    return Images(dataset.normalise(dataset.train.inputs[:500]), test, part.labels[:count])


def networks(depth: int, given: Images) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return every network as floats and in 8 bits, folded."""
    name = f"resnet{depth}"
    weights = os.environ.get(f"AUTOPRUNE_RESNET{depth}", str(DATA / CHECKPOINTS[name]))
    spec = ModelSpec(name=f"cifar_{name}", checkpoint=weights)
    dense = to_layout(build_model(spec, 10, (3, 32, 32)), torch.device("cpu"))
    graph = examine(dense, given.train[:2]).graph
    plan = plan_by("l1", Evidence(dense, graph.groups))
    found = {}
    for name, multiple in _WIDTHS.items():
        network = dense
        if multiple is not None:
            network = plan.carve(_half(graph.groups, multiple))
            recalibrate(network, [given.train], torch.float32)
        floats = fold(network.eval(), graph.foldable)
        whole = copy.deepcopy(floats)
        kinds = (nn.Linear, nn.Conv2d)
        bits = {
            x: LayerDecision(8, 8) for x, each in whole.named_modules() if isinstance(each, kinds)
        }
        quantise(
            whole,
            bits,
            [given.train],
            observer="min_max",
            weight_observer="min_max",
            rounding="nearest",
        )
        found[name] = floats, whole
    return found


def _half(groups: GroupTable, multiple: int) -> Policy:
    inner = [each for each in groups.prunable if ".conv1" in each.name]
    kept = {each.name: max(multiple, each.units // 2 // multiple * multiple) for each in inner}
    if multiple == 1:
        kept = {name: units - 1 for name, units in kept.items()}
    ratios = {each.name: kept[each.name] / each.units for each in inner}
    return groups.canonical(Policy.from_keep_ratios(ratios))


def figures(backend: str, depth: int, given: Images, seconds: float) -> None:
    """Print what one backend makes of one depth."""
    runtime = create(backend)
    runners: dict[str, Runner] = {}
    for name, pair in networks(depth, given).items():
        for bits, network in zip(("fp32", "int8"), pair, strict=True):
            title = f"{name} {bits}"
            runners[title] = runtime.build(network, given.test[:1], given.train)
            body: dict[str, Any] = {
                "backend": backend,
                "network": f"resnet{depth}",
                "form": title,
                "file_bytes": len(runners[title].artifact or b""),
                "top1": _top1(runtime, network, given),
            }
            for other in dict.fromkeys(("dense fp32", "dense int8", f"{name} fp32")):
                if other in runners:
                    found = _compared(runners[title], runners[other], seconds)
                    body[f"of {other}"] = [found.ratio.value, found.ratio.low, found.ratio.high]
                    body["ms"] = found.candidate_ms.value
            rounded = json.loads(json.dumps(body), parse_float=lambda text: round(float(text), 4))
            print(json.dumps(rounded), flush=True)


def _compared(one: Runner, other: Runner, seconds: float) -> timing.Comparison:
    with other, one:
        return timing.compare(one, other, precision=0.02, seconds=seconds)


def _top1(runtime: Runtime, network: nn.Module, given: Images) -> float:
    with runtime.build(network, given.test[:_BATCH], given.train) as runner:
        logits = runner.logits(given.test)
    return float((logits.argmax(dim=1) == given.labels).float().mean())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", nargs="+", type=int, default=[20, 56])
    parser.add_argument("--backends", nargs="+", default=["onnx", "openvino"])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing per comparison")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = images(options.images)
    print(json.dumps({"processor": processor_name()}))
    for depth in options.depths:
        for backend in options.backends:
            figures(backend, depth, given, options.seconds)


if __name__ == "__main__":
    main()
