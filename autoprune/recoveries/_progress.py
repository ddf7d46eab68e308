"""How far a training has come, kept in a checkpoint and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.contracts.recovery import Checkpoint
from autoprune.recoveries._average import Average
from autoprune.recoveries._losses import Losses
from autoprune.recoveries._masking import Masking

_NETWORK, _OPTIMIZER, _AVERAGE, _MASKING = "network/", "optimizer/", "average/", "masking/"


@dataclass
class Progress:
    """All that changes from step to step; `step` is the next one."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    losses: Losses
    masking: Masking
    step: int = 0

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep everything; all losses must have been read."""
        tensors = _named(_NETWORK, self.network.state_dict())
        for place, parameter in enumerate(self.network.parameters()):
            tensors |= _named(f"{_OPTIMIZER}{place}/", self.optimizer.state.get(parameter, {}))
        if self.average is not None:
            tensors |= _named(_AVERAGE, self.average.tensors)
        tensors |= _named(_MASKING, self.masking.tensors())
        checkpoint.write(tensors, {"step": self.step, "losses": self.losses.to_json()})

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, where there is one."""
        kept = checkpoint.read()
        if kept is None:
            return
        tensors, about = kept
        self.network.load_state_dict(_under(_NETWORK, tensors))
        for place, parameter in enumerate(self.network.parameters()):
            for name, each in _under(f"{_OPTIMIZER}{place}/", tensors).items():
                # In the layout of the parameter, so that sums are rounded as before; the
                # number of steps taken is not laid out.
                own = each if name == "step" else torch.empty_like(parameter).copy_(each)
                self.optimizer.state[parameter][name] = own.detach()
        if self.average is not None:
            self.average.load(_under(_AVERAGE, tensors))
        self.masking.load(_under(_MASKING, tensors))
        self.losses.load(about["losses"])
        self.step = about["step"]


def _named(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": each for name, each in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
    }
