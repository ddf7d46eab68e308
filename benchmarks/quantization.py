"""What rounding costs a ResNet-20 on the first 1,000 test images of CIFAR-10, without training.

    python -m benchmarks.quantization            # CIFAR-10 and weights as in examples/

One thread. Accuracy with fewer bits for kernels alone by how they are rounded, with fewer bits
for all by observer, the seconds that each takes with 256 training images, and the time of a
pass that rounds what layers read against the plain one (batches of 250, rounds alternate).
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from autoprune.data.cifar10 import Cifar10
from autoprune.evaluation.inference import BATCH, cast, channels_last, predict
from autoprune.job.spec import ModelSpec, Observer
from autoprune.models.catalog import build_model
from autoprune.policy import LayerDecision, Rounding
from autoprune.quantization.calibration import calibrate
from autoprune.quantization.form import attach
from autoprune.quantization.quantise import quantise
from autoprune.surgery.folding import fold
from autoprune.tracing.discovery import discover

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ANCHORS = {32: 0.915, 8: 0.914, 6: 0.917, 5: 0.916, 4: 0.904, 3: 0.730, 2: 0.095}
ROUNDS = 7


def main() -> None:
    """Print the figures as JSON, a line each."""
    torch.set_num_threads(1)
    subject = Subject()
    for bits, anchor in ANCHORS.items():
        found = {
            each: subject.accuracy(subject.quantised(LayerDecision(bits), rounding=each)[0])
            for each in get_args(Rounding)
        }
        print(json.dumps({"weight_bits": bits, "anchor": anchor, **found}))
    for bits in (8, 4):
        for observer in get_args(Observer):
            line: dict[str, object] = {"bits": bits, "observer": observer}
            for each in get_args(Rounding):
                decision = LayerDecision(bits, bits)
                network, seconds = subject.quantised(decision, rounding=each, observer=observer)
                line |= {each: subject.accuracy(network), f"{each}_s": round(seconds, 2)}
            print(json.dumps(line | {"calibration_s": round(subject.calibration_s(observer), 2)}))
    for dtype in (torch.float32, torch.bfloat16):
        print(json.dumps({"dtype": str(dtype), **subject.ratio(dtype), "target_ratio": 1.6}))


class Subject:
    """The folded network, images that tell ranges, and labelled ones that judge."""

    def __init__(self) -> None:
        path = os.environ.get("AUTOPRUNE_CIFAR10", str(DATA / "cifar10.npz"))
        weights = os.environ.get("AUTOPRUNE_RESNET20", str(DATA / "resnet20-12fca82f.th"))
        raw = Cifar10(path=path).load()
        spec = ModelSpec(name="cifar_resnet20", checkpoint=weights)
        model = channels_last(build_model(spec, 10, (3, 32, 32))).requires_grad_(False)
        scale = [torch.tensor(each).view(1, 3, 1, 1) for each in (raw.mean, raw.std)]

        def batches(images: Tensor) -> list[Tensor]:
            pixels = images.permute(0, 3, 1, 2).float() / 255
            return list(((pixels - scale[0]) / scale[1]).split(BATCH))

        self.train = batches(torch.from_numpy(raw.train_inputs[:256]))
        self.test = batches(torch.from_numpy(raw.test_inputs[:1000]))
        self.labels = torch.from_numpy(raw.test_labels[:1000])
        graph = discover(model, self.train[0][:2])
        self.layers = [each.name for each in graph.groups.layers]
        self.network = fold(model, graph.foldable)

    def quantised(
        self, decision: LayerDecision, *, rounding: Rounding, observer: Observer = "percentile"
    ) -> tuple[nn.Module, float]:
        """Return the network with the same bits everywhere, and the seconds that it took."""
        network = copy.deepcopy(self.network)
        start = time.perf_counter()
        quantise(
            network,
            dict.fromkeys(self.layers, decision),
            self.train,
            observer=observer,
            weight_observer="min_max",
            rounding=rounding,
        )
        return network, time.perf_counter() - start

    def calibration_s(self, observer: Observer) -> float:
        """Return the seconds of telling the ranges of all inputs."""
        network = copy.deepcopy(self.network)
        attach(network, dict.fromkeys(self.layers, LayerDecision(32, 8)))
        laps = []
        for _ in range(3):
            start = time.perf_counter()
            calibrate(network, self.train, observer=observer, steps={})
            laps.append(time.perf_counter() - start)
        return statistics.median(laps)

    def accuracy(self, network: nn.Module) -> float:
        """Return the share of the test images that are classified right."""
        right = predict(network, self.test).argmax(1) == self.labels
        return round(float(right.float().mean()), 4)

    def ratio(self, dtype: torch.dtype) -> Mapping[str, float]:
        """Return the seconds of a plain and of a rounding pass, and their ratio."""
        rounding, _ = self.quantised(LayerDecision(8, 8), rounding="nearest")
        forms = {"plain_s": cast(self.network, dtype), "rounding_s": cast(rounding, dtype)}
        images = [each.to(dtype) for each in self.test]
        laps: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(ROUNDS + 1):
            for name, each in forms.items():
                start = time.perf_counter()
                predict(each, images)
                laps[name].append(time.perf_counter() - start)
        found = {name: statistics.median(each[1:]) for name, each in laps.items()}
        ratio = found["rounding_s"] / found["plain_s"]
        return {name: round(each, 3) for name, each in found.items()} | {"ratio": round(ratio, 3)}


if __name__ == "__main__":
    main()
