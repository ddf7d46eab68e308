"""Where a kernel reads a group, and what it reads of every unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.graph.group import Slice


@dataclass(frozen=True, slots=True)
class Reading:
    """A place where a kernel reads a group: the dimension of its inputs that holds the channels,
    of how many samples those inputs are, and whether tokens come before samples there.
    """

    group: str
    reader: Slice
    axis: int
    samples: int
    is_token_first: bool = False

    @property
    def kernel(self) -> str:
        """Name of the kernel that reads."""
        return self.reader.tensor

    def by_unit(self, inputs: Tensor) -> Tensor:
        """Return what is read of every unit, shape (samples, units, positions).

        What a unit has of several channels counts as positions.
        """
        read = inputs.movedim(self.axis, -1)
        if self.is_token_first:
            read = read.movedim(1, 0)
        read = read.reshape(self.samples, -1, read.shape[-1])
        if self.reader.is_identity:
            return read.transpose(1, 2)
        entries = torch.from_numpy(self.reader.entries).to(inputs.device)
        gathered = read[..., entries.clamp(min=0)] * (entries >= 0)
        return gathered.movedim(1, 2).flatten(2)

    def planes(self, inputs: Tensor) -> Tensor | None:
        """Return what is read of every unit as planes, shape (samples, units, channels, h, w).

        None where it lies in no planes of two or more rows and columns, as images do.
        """
        sides = [size for axis, size in enumerate(inputs.shape) if axis not in (0, self.axis)]
        is_by_sample = not self.is_token_first and inputs.shape[0] == self.samples
        if not is_by_sample or len(sides) != 2 or min(sides) < 2:
            return None
        # There channels of a unit come after places.
        planes: Tensor = self.by_unit(inputs).unflatten(2, (*sides, -1))
        return planes.movedim(-1, 2)
