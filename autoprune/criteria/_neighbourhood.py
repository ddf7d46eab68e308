"""Which kernels stand before and after which, and how strong they are: read off the groups.

What makes a group stands before what reads it. A kernel is not its own neighbour. A depthwise
convolution reads the units that it makes, so it stands on both sides of the others of its group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.graph.group import PrunableGroup, Slice
from autoprune.scoring.evidence import Evidence

Side = tuple[str, int]
"""A kernel's name and one of its dimensions."""


@dataclass(frozen=True)
class _Place:
    """Where a dimension of a kernel touches a group, and what else does.

    `positions`, the `units` that they belong to, and the `shares` that they have in what a
    neighbour holds of the unit, shape (n,) each; `neighbours` are squares by the names of
    kernels, shape (units,) each.
    """

    positions: np.ndarray
    units: np.ndarray
    shares: np.ndarray
    neighbours: Mapping[str, np.ndarray]


class Neighbourhood:
    """The neighbours of every kernel; channels of a unit that groups cannot tell apart are alike.

    A unit may have several channels, as a head has, or a map that is flattened for a linear
    layer. Each of them was made by a row of the mean square norm, and is read by its share of
    the columns that read the unit.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._weights = evidence.weights
        self._model = evidence.model
        self._kernels = frozenset(evidence.kernels)
        self._groups = evidence.groups.groups
        self._known: dict[Side, np.ndarray] = {}

    def factors(self) -> dict[str, list[tuple[int, np.ndarray]]]:
        """Return kernel → dimensions, and what every position of them is multiplied with.

        That is the norm of what stands before it or after it, and the factors of the batch norms
        that follow the kernel.
        """
        before: dict[Side, list[_Place]] = {}
        after: dict[Side, list[_Place]] = {}
        for group in self._groups:
            makers, readers = self._makers(group), self._readers(group)
            rows = {each.tensor: self._row(each) for each in makers}
            columns = {each.tensor: self._columns(each) for each in readers}
            for each in makers:
                place = _place(each, columns, 1.0 / _channels(each))
                after.setdefault((each.tensor, each.dim), []).append(place)
            for each in readers:
                place = _place(each, rows, np.ones(group.units))
                before.setdefault((each.tensor, each.dim), []).append(place)
        found: dict[str, list[tuple[int, np.ndarray]]] = {}
        for side, places in after.items():
            squares = self._total(side, places) * self._scales.get(side, 1.0)
            found.setdefault(side[0], []).append((side[1], np.sqrt(squares)))
        for side, places in before.items():
            found.setdefault(side[0], []).append((side[1], np.sqrt(self._total(side, places))))
        return found

    def _makers(self, group: PrunableGroup) -> list[Slice]:
        return [each for each in group.slices if self._is_maker(each)]

    def _is_maker(self, each: Slice) -> bool:
        # Dimensions that stay whole without having units list no entries.
        return each.role == "out" and each.tensor in self._kernels and each.entries.size > 0

    def _readers(self, group: PrunableGroup) -> list[Slice]:
        return [
            each
            for each in group.slices
            if (each.role == "in" and each.tensor in self._kernels and each.entries.size > 0)
            or (self._is_maker(each) and self._is_depthwise(each))
        ]

    def _is_depthwise(self, each: Slice) -> bool:
        """Say whether a kernel that makes units has one filter for each channel that it reads."""
        is_narrow = each.dim == 0 and self._weights[each.tensor].shape[1] == 1
        groups = getattr(self._model.get_submodule(each.module), "groups", 1)
        return is_narrow and isinstance(groups, int) and groups > 1

    def _row(self, each: Slice) -> np.ndarray:
        """Return the mean squared norm of the rows that make a unit, shape (units,)."""
        squares = self._squares(each) * self._scales.get((each.tensor, each.dim), 1.0)
        mean: np.ndarray = _by_unit(each, squares) / _channels(each)
        return mean

    def _columns(self, each: Slice) -> np.ndarray:
        """Return the squared norm of all columns that read a unit, shape (units,)."""
        return _by_unit(each, self._squares(each))

    def _squares(self, each: Slice) -> np.ndarray:
        """Return the sum of squares at every position of the dimension, shape (size,)."""
        side = each.tensor, each.dim
        if side not in self._known:
            squares = np.square(self._weights[each.tensor])
            others = tuple(axis for axis in range(squares.ndim) if axis != each.dim)
            self._known[side] = squares.sum(axis=others, dtype=np.float64)
        return self._known[side]

    def _total(self, side: Side, places: Sequence[_Place]) -> np.ndarray:
        """Return the squares of all neighbours at every position, shape (size,); 1 without any.

        A neighbour that is met in several groups (in the heads of attention, and in the places
        within them) counts with the mean.
        """
        size = self._weights[side[0]].shape[side[1]]
        squares, is_known = np.zeros(size), np.zeros(size, dtype=bool)
        for name in {name: None for place in places for name in place.neighbours}:
            if name == side[0]:
                continue
            total, count = np.zeros(size), np.zeros(size)
            for place in places:
                if name in place.neighbours:
                    total[place.positions] += place.neighbours[name][place.units] * place.shares
                    count[place.positions] += 1.0
            squares += total / np.maximum(count, 1.0)
            is_known |= count > 0.0
        return np.where(is_known, squares, 1.0)

    @cached_property
    def _scales(self) -> dict[Side, np.ndarray]:
        """The squared factors of the batch norms that follow a kernel, at every position."""
        total: dict[Side, np.ndarray] = {}
        count: dict[Side, np.ndarray] = {}
        for group in self._groups:
            for maker, squares in self._normalised(group):
                side = maker.tensor, maker.dim
                there = maker.entries >= 0
                positions = maker.entries[there]
                for table, values in ((total, squares[there]), (count, 1.0)):
                    table.setdefault(side, np.zeros(maker.size))[positions] += values
        return {
            side: np.where(count[side] > 0.0, each / np.maximum(count[side], 1.0), 1.0)
            for side, each in total.items()
        }

    def _normalised(self, group: PrunableGroup) -> Iterator[tuple[Slice, np.ndarray]]:
        """Yield kernels with the squared factors of their batch norms, shape of their entries.

        Slices come in the order of the forward pass, so a batch norm follows the last maker
        before it. Several that follow one (each before a reader of its own, as in a DenseNet)
        count with their mean square.
        """
        maker: Slice | None = None
        met: dict[str, np.ndarray] = {}
        for each in group.slices:
            if self._is_maker(each):
                if maker is not None and met:
                    yield maker, np.mean(list(met.values()), axis=0)
                maker, met = each, {}
            elif maker is not None and each.role == "along" and each.module not in met:
                module = self._model.get_submodule(each.module)
                if isinstance(module, _BatchNorm) and each.entries.size > 0:
                    met[each.module] = _matched(each, _squared_factors(module), maker)
        if maker is not None and met:
            yield maker, np.mean(list(met.values()), axis=0)


def _place(each: Slice, neighbours: Mapping[str, np.ndarray], shares: np.ndarray) -> _Place:
    units, columns = np.nonzero(each.entries >= 0)
    return _Place(each.entries[units, columns], units, shares[units], neighbours)


def _channels(each: Slice) -> np.ndarray:
    """Return how many positions every unit has, at least 1, shape (units,)."""
    counts: np.ndarray = np.maximum((each.entries >= 0).sum(axis=1), 1)
    return counts


def _by_unit(each: Slice, values: np.ndarray) -> np.ndarray:
    """Return the sums over the positions of every unit, shape (units,)."""
    sums: np.ndarray = np.where(each.entries >= 0, values[each.entries], 0.0).sum(axis=1)
    return sums


def _matched(norm: Slice, squares: np.ndarray, maker: Slice) -> np.ndarray:
    """Return a batch norm's squares for the entries of a kernel, shape (units, width).

    One by one where a unit has as many channels here as there, else the unit's mean.
    """
    if norm.entries.shape == maker.entries.shape:
        matched: np.ndarray = squares[norm.entries]
        return matched
    mean = _by_unit(norm, squares) / _channels(norm)
    return np.repeat(mean[:, None], maker.entries.shape[1], axis=1)


def _squared_factors(norm: _BatchNorm) -> np.ndarray:
    """Return γ²/(σ² + ε) of every channel; 1 for what a batch norm has not, shape (channels,)."""
    squares = np.ones(norm.num_features)
    if norm.affine:
        squares *= norm.weight.detach().double().cpu().numpy() ** 2
    if norm.running_var is not None:
        squares /= norm.running_var.double().cpu().numpy() + norm.eps
    return squares
