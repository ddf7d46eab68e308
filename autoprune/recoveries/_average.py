"""The moving average of a network's state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of parameters and buffers, batch norm statistics included.

    The first steps count more than `decay` lets them, so that short trainings forget what they
    began with: of the average after t steps the share min(decay, (1 + t) / (10 + t)) stays, as
    in TensorFlow's `ExponentialMovingAverage`. Whole numbers are those of the last step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.tensors = {name: each.clone() for name, each in network.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network as it is after `step`."""
        weight = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        floating: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, each in self.network.state_dict().items():
            if each.is_floating_point():
                floating[0].append(self.tensors[name])
                floating[1].append(each)
            else:
                self.tensors[name].copy_(each)
        torch._foreach_lerp_(*floating, weight)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the `tensors` of another average."""
        for name, each in self.tensors.items():
            each.copy_(tensors[name])
