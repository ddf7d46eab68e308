"""The units that leave a network, seen as tensors that training can work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.graph.group import PrunableGroup, Slice
from autoprune.surgery.removal import Removal


@dataclass(frozen=True)
class Part:
    """The entries of one parameter that go with some units.

    `positions`, int64 (units, width), lie in the dimension `dim`, filled up where `valid`,
    bool in the same shape, is false.
    """

    parameter: nn.Parameter
    dim: int
    positions: Tensor
    valid: Tensor

    @property
    def values(self) -> Tensor:
        """The entries, shape (units, n), zero where nothing is; gradients pass through."""
        rows = self.parameter.movedim(self.dim, 0)[self.positions]
        rows = rows.reshape(*self.positions.shape, -1)
        return (rows * self.valid[:, :, None]).flatten(1)

    @property
    def sizes(self) -> Tensor:
        """How many entries each of the units has, shape (units,)."""
        each = self.parameter.numel() // self.parameter.shape[self.dim]
        return self.valid.sum(1) * each

    @torch.no_grad()
    def clear(self) -> None:
        """Make the entries zero."""
        self.parameter.movedim(self.dim, 0).index_fill_(0, self.positions[self.valid], 0.0)


@dataclass(frozen=True)
class Units:
    """The leaving units of one group.

    `kernels` are the rows of the kernels that make them, and `scales` those of batch norms over
    them. `parts` is all that must be zero for them to be zero whatever they read: kernels,
    biases, and what goes with them, such as scales and shifts.
    """

    parts: tuple[Part, ...]
    kernels: tuple[Part, ...]
    scales: tuple[Part, ...]

    @property
    def values(self) -> Tensor:
        """All parts side by side, shape (units, n)."""
        return torch.cat([each.values for each in self.parts], 1)

    @property
    def sizes(self) -> Tensor:
        """How many entries each of the units has, shape (units,)."""
        return torch.stack([each.sizes for each in self.parts]).sum(0)


def leaving_units(removal: Removal, network: nn.Module) -> list[Units]:
    """Return the units that leave each group of a network of the dense one's form."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    norms = {
        f"{name}.weight".lstrip(".")
        for name, each in network.named_modules()
        if isinstance(each, nn.modules.batchnorm._BatchNorm)
    }
    found = []
    for name, kept in removal.plan.kept_units(removal.policy).items():
        group = removal.plan.groups[name]
        leaving = np.setdiff1d(np.arange(group.units), kept)
        units = _units(group, leaving, parameters, norms)
        if units.parts:
            found.append(units)
    return found


def _units(
    group: PrunableGroup,
    leaving: np.ndarray,
    parameters: Mapping[str, nn.Parameter],
    norms: Iterable[str],
) -> Units:
    parts: dict[tuple[int, int], Part] = {}  # what several names share is there once
    kernels: list[Part] = []
    scales: list[Part] = []
    for each in group.slices:
        # A weight-normed kernel is divided by its norm: its length alone makes it small.
        if (
            each.role not in ("out", "along")
            or each.tensor not in parameters
            or each.tensor.endswith(".original1")
        ):
            continue
        parameter = parameters[each.tensor]
        key = id(parameter), each.dim
        if key in parts:
            continue
        parts[key] = part = _part(each, leaving, parameter)
        if each.role == "out" and parameter.dim() > 1:
            kernels.append(part)
        if each.tensor in norms:
            scales.append(part)
    return Units(tuple(parts.values()), tuple(kernels), tuple(scales))


def _part(place: Slice, leaving: np.ndarray, parameter: nn.Parameter) -> Part:
    positions = torch.from_numpy(place.entries[leaving]).to(parameter.device)
    return Part(parameter, place.dim, positions.clamp(min=0), positions >= 0)
