"""Networks without some of their weights, and a stopwatch that shows what it is told."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.models.digits_cnn import DigitsCnn
from autoprune.policy import LayerDecision
from autoprune.quantization.form import kernels_of
from autoprune.runtimes.runtime import Runner
from autoprune.runtimes.timing import Comparison
from autoprune.surgery.sparsify import mask_of
from autoprune.trial import Measurement
from tests.carving import Network
from tests.zoo.torchvision_families import ENTRIES

HALF, FIFTH = LayerDecision(keep_ratio=0.5), LayerDecision(keep_ratio=0.2)
TWO_FOUR = LayerDecision(keep_ratio=0.5, pattern="2:4")
TILES = LayerDecision(keep_ratio=0.3, pattern="8x8")
EVERY = (HALF, FIFTH, TWO_FOUR, TILES, LayerDecision(keep_ratio=0.3, pattern="4x1"))


class Times:
    """Compares runners that are run by shares of time that are made up, the last one for ever."""

    def __init__(self, *shares: float | tuple[float, float]) -> None:
        self._shares: Iterator[Any] = chain(shares, repeat(shares[-1]))
        self.asked = 0

    def __call__(self, runner: Runner, other: Runner, **_: Any) -> Comparison:
        self.asked += 1
        other.run()
        runner.run()
        share = next(self._shares)
        value, high = share if isinstance(share, tuple) else (share, share)
        ms = Measurement(1.0)
        return Comparison(Measurement(value, value, high), ms, ms, "")


def sparse(network: nn.Module, decision: LayerDecision) -> nn.Module:
    """Return a copy of a network whose kernels have lost single weights, and dense biases."""
    made = copy.deepcopy(network).eval().requires_grad_(False)
    for module in made.modules():
        for kernel in kernels_of(module).values():
            kernel.mul_(mask_of(kernel.abs(), decision))
    return made


class Seen(TorchDispatchMode):
    """Notes in which layouts the tensors lie that a pass reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layouts: list[torch.layout] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.layouts += [x.layout for x in args if isinstance(x, Tensor)]
        return func(*args, **(kwargs or {}))


def layouts(runner: Runner) -> list[torch.layout]:
    """Return the layouts of the sparse kernels that a pass multiplies with."""
    with runner, Seen() as seen:
        runner.run()
    return [each for each in seen.layouts if each is not torch.strided]


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())


def mlp() -> tuple[nn.Module, Tensor]:
    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96, bias=False), nn.Linear(96, 10)
    return nn.Sequential(*layers).eval(), torch.randn(3, 64)


def vit() -> tuple[nn.Module, Tensor]:
    (entry,) = (each for each in ENTRIES if each.name == "vit")
    network, _ = entry.build()
    return network, torch.randn(2, 3, 32, 32)


def encoder() -> tuple[nn.Module, Tensor]:
    """PyTorch's own layer, which reads the kernels of its parts itself."""
    layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(240, 64)).eval(), torch.randn(2, 5, 48)


def recurrent() -> tuple[nn.Module, Tensor]:
    def run(net: Any, x: Tensor) -> Tensor:
        outputs: Tensor = net.out(net.cells(net.into(x))[0][:, -1])
        return outputs

    parts = {"into": nn.Linear(64, 80), "cells": nn.LSTM(80, 64, batch_first=True)}
    return Network(run, **parts, out=nn.Linear(64, 72)).eval(), torch.randn(2, 7, 64)


def digits() -> tuple[nn.Module, Tensor]:
    return DigitsCnn().eval(), torch.randn(2, 1, 8, 8)
