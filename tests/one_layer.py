"""One layer without bias, and a loss whose gradient is given: for recoveries of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune import plugins
from autoprune.contracts.recovery import Batch, Training
from autoprune.job.spec import PluginSpec
from autoprune.policy import LayerDecision
from autoprune.recoveries._masking import Masking
from autoprune.recoveries.finetune import Finetune
from autoprune.surgery.sparsify import Sparsity
from autoprune.testing.recovery import MemoryCheckpoint

WEIGHTS = torch.tensor([[0.9, -0.1, 0.5, 0.05], [-0.8, 0.2, -0.4, 0.3], [0.7, 0.6, 0.15, -0.25]])
KERNEL = "0.weight"


def bare(name: str, **options: Any) -> Finetune:
    """Return a recipe whose every step has the same rate, and nothing but the gradient."""
    plain = {"schedule": "constant", "weight_decay": 0.0, "clip": None}
    recovery = plugins.create("recovery", PluginSpec(name=name, options=plain | options))
    assert isinstance(recovery, Finetune)
    return recovery


def layer(weights: Tensor) -> nn.Module:
    network = nn.Sequential(nn.Linear(weights.shape[1], weights.shape[0], bias=False))
    network[0].weight.data.copy_(weights)
    return network


def training_of(
    network: nn.Module,
    decision: LayerDecision,
    gradient: Tensor | float = 1.0,
    seen: list[Tensor] | None = None,
    **more: Any,
) -> Training:
    """Return a training whose loss has this gradient; what the network computes with is `seen`."""

    def loss(_: Batch) -> Tensor:
        kernel = network[0].weight  # type: ignore[index]
        if seen is not None:
            seen.append(kernel.detach().clone())
        return (kernel * gradient).sum()

    worth = network[0].weight.detach().abs()  # type: ignore[index]
    options: dict[str, Any] = {
        "steps": 10,
        "seed": 3,
        "learning_rate": 0.0,
        "batch": lambda _: Batch(torch.zeros(1, 4), torch.zeros(1).long(), torch.zeros(1).long()),
        "loss": loss,
        "checkpoint": MemoryCheckpoint(),
        "sparsity": Sparsity({KERNEL: decision}, {KERNEL: worth}),
    }
    return Training(network, **options | more)


def hooks(recovery: Finetune, training: Training) -> Masking:
    """Return what a recipe does to weights, to be asked step by step."""
    masking = recovery.masking(training)
    masking.optimizer = torch.optim.SGD(training.network.parameters(), 0.1, momentum=0.9)
    return masking


class History(MemoryCheckpoint):
    """Keeps what was written after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Tensor]] = []

    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self.steps.append({name: each.detach().clone() for name, each in tensors.items()})

    def all(self, name: str) -> list[Tensor]:
        return [each[name] for each in self.steps]


def counts(tensors: list[Tensor]) -> list[int]:
    return [int((each != 0).sum()) for each in tensors]


def rows(generator: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(generator))
