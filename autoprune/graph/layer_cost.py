"""What bits and ranks of layers change about the costs of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.graph.cost_row import CostRow
from autoprune.graph.extent import Extent
from autoprune.graph.layer import Layer

_FULL = 32
_UNTOUCHED = np.array([_FULL, _FULL, 0.0])
# A scale of every output channel; a scale and a zero point of what is read. Four bytes each.
_SCALE_BYTES, _INPUT_BYTES = 4, 8


class LayerRows:
    """What bits and ranks of layers change about the costs of rows."""

    def __init__(
        self,
        rows: Sequence[CostRow],
        layers: Sequence[Layer],
        places: Mapping[Extent, int],
    ) -> None:
        index = {layer.name: number for number, layer in enumerate(layers)}
        # The column of a row without a layer is one past the last: it stays as it is.
        self._layer = np.array([index.get(row.module, len(layers)) for row in rows], dtype=np.int64)
        owned = self._layer < len(layers)
        self._is_kernel = owned & np.array([row.params > 0 and row.macs > 0 for row in rows], bool)
        self._is_output = owned & np.array([row.written_bytes > 0 for row in rows], bool)
        self._outputs = padded([[places[x] for x in each.outputs] for each in layers], -1)
        self._counted = np.array(
            [
                [place < len(each.outputs) for place in range(self._outputs.shape[1])]
                for each in layers
            ],
            dtype=np.float64,
        ).reshape(self._outputs.shape)
        # The one past the last extent is one.
        self._inputs = np.array(
            [-1 if each.inputs is None else places[each.inputs] for each in layers], dtype=np.int64
        )
        kernels = np.bincount(self._layer[self._is_kernel], minlength=len(layers) + 1)
        self._kernels = np.maximum(1, kernels)

    def costs(
        self,
        elements: np.ndarray,
        per_element: np.ndarray,
        lengths: np.ndarray,
        decisions: np.ndarray,
    ) -> np.ndarray:
        """Return the costs of every row, shape (n, rows, 5).

        `elements` (n, rows) are those of layers that stay one, `lengths` (n, extents + 1) those
        of extents, `decisions` (n, 3, layers) weight bits, activation bits and ranks.
        """
        if (decisions == _UNTOUCHED[:, None]).all():
            macs = elements * per_element[:, 0]
            return np.concatenate(
                [elements[..., None] * per_element, (macs * _FULL**2)[..., None]], axis=-1
            )
        weight_bits, activation_bits, rank = np.moveaxis(decisions, 1, 0)
        # As in `Layer.in_use`.
        activation_bits = np.where(
            (activation_bits <= 8) & (weight_bits > 8), weight_bits, activation_bits
        )
        outputs = (lengths[:, self._outputs] * self._counted).sum(axis=-1)
        inputs = lengths[:, self._inputs]
        with np.errstate(divide="ignore", invalid="ignore"):
            is_product = (rank > 0) & (rank * (outputs + inputs) < outputs * inputs)
            smaller = np.where(is_product, rank * (outputs + inputs) / (outputs * inputs), 1.0)
            written = np.where(is_product, 1.0 + rank / outputs, 1.0)
        elements = elements * np.where(self._is_kernel, self._of_rows(smaller, 1.0), 1.0)
        elements *= np.where(self._is_output, self._of_rows(written, 1.0), 1.0)
        costs = np.empty((*elements.shape, 5))
        costs[..., :4] = elements[..., None] * per_element
        wide = np.where(self._is_kernel, self._of_rows(weight_bits, _FULL), _FULL)
        read = np.where(self._is_kernel, self._of_rows(activation_bits, _FULL), _FULL)
        costs[..., 4] = costs[..., 0] * wide * read
        scales = _SCALE_BYTES * (outputs + np.where(is_product, rank, 0.0)) * (weight_bits <= 8)
        scales += _INPUT_BYTES * (1.0 + is_product) * (activation_bits <= 8)
        scales = self._of_rows(scales / self._kernels[:-1], 0.0) * self._is_kernel
        bits = np.minimum(8 * per_element[:, 2], wide)
        costs[..., 2] = np.where(
            self._is_kernel, np.ceil(elements * bits / 8) + scales * (elements > 0), costs[..., 2]
        )
        return costs

    def _of_rows(self, values: np.ndarray, other: float) -> np.ndarray:
        """Return the values of every row's layer, shape (n, rows), of values (n, layers)."""
        filled = np.concatenate([values, np.full((len(values), 1), other)], axis=1)
        taken: np.ndarray = filled[:, self._layer]
        return taken


def padded(lists: list[list[int]], filler: int) -> np.ndarray:
    """Return lists of different lengths as one array, the rest filled with `filler`."""
    width = max((len(each) for each in lists), default=0)
    rows = [each + [filler] * (width - len(each)) for each in lists]
    return np.array(rows, dtype=np.int64).reshape(len(lists), width)
