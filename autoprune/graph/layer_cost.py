"""What bits, ranks and sparsity of layers change about the costs of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.graph.cost_row import CostRow
from autoprune.graph.extent import Extent
from autoprune.graph.layer import Layer
from autoprune.policy import WHOLE_NUMBERS, LayerDecision

FULL = 32
UNTOUCHED = np.array([[FULL], [FULL], [0.0], [1.0], [0.0], [0.0]])
"""What stands for a layer that stays as it is, shape (6, 1): weight bits, activation bits, rank,
the share of its weights that is kept, and rows and columns of the pattern in which they leave."""
# A scale of every output channel; a scale and a zero point of what is read. Four bytes each.
_SCALE_BYTES, _INPUT_BYTES = 4, 8


def numbers_of(decision: LayerDecision) -> tuple[float, ...]:
    """Return what stands for a decision about a layer, in the order of `UNTOUCHED`."""
    shape = decision.shape
    bits = decision.weight_bits, decision.activation_bits
    return (*bits, decision.rank or 0, decision.keep_ratio, shape.rows, shape.columns)


class LayerRows:
    """What bits, ranks and sparsity of layers change about the costs of rows."""

    def __init__(
        self,
        rows: Sequence[CostRow],
        layers: Sequence[Layer],
        places: Mapping[Extent, int],
    ) -> None:
        index = {layer.name: number for number, layer in enumerate(layers)}
        places_of = {
            kind: [place for place, row in enumerate(rows) if row.module in index and is_kind(row)]
            for kind, is_kind in (("kernel", _is_kernel), ("output", _is_output))
        }
        self._kernels = np.array(places_of["kernel"], dtype=np.int64)
        self._written = np.array(places_of["output"], dtype=np.int64)
        of_row = [index.get(row.module, -1) for row in rows]
        self._kernel_layer = np.array(of_row, dtype=np.int64)[self._kernels]
        self._written_layer = np.array(of_row, dtype=np.int64)[self._written]
        self._macs = np.array([row.macs for row in rows], dtype=np.float64)
        self._item_bytes = np.array([row.item_bytes for row in rows], dtype=np.float64)
        self._outputs = padded([[places[x] for x in each.outputs] for each in layers], -1)
        self._counted = self._outputs >= 0
        # The one past the last extent is one.
        self._inputs = np.array(
            [-1 if each.inputs is None else places[each.inputs] for each in layers], dtype=np.int64
        )
        # Scales are those of a layer, and a part of each of its kernels.
        self._share = 1.0 / np.maximum(1, np.bincount(self._kernel_layer, minlength=len(layers)))

    def costs(
        self, elements: np.ndarray, lengths: np.ndarray, decisions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return elements, stored ones, bytes and bit operations of every row, (n, rows) each.

        `elements` (n, rows) are those of layers that stay one, `lengths` (n, extents + 1) those
        of extents, `decisions` (n, 6, layers) as `UNTOUCHED`. Kernels without some of their
        weights are stored with an index, or whole where that is smaller; they are multiplied
        with as if they were whole.
        """
        weight_bits, reads, rank, *sparsity = np.moveaxis(decisions, 1, 0)
        is_whole = weight_bits <= WHOLE_NUMBERS
        # As in `Layer.in_use`.
        reads = np.where((reads <= WHOLE_NUMBERS) & ~is_whole, weight_bits, reads)
        outputs = (lengths[:, self._outputs] * self._counted).sum(axis=-1)
        elements, rank = self._factorised(elements, rank, outputs, lengths[:, self._inputs])
        scales = _SCALE_BYTES * (outputs + rank) * is_whole
        scales += _INPUT_BYTES * (1.0 + (rank > 0)) * (reads <= WHOLE_NUMBERS)
        scales *= self._share
        own = elements[:, self._kernels]
        # Two smaller layers keep all of their weights.
        sparsity[0] = np.where(rank > 0, 1.0, sparsity[0])
        shape = [each[:, self._kernel_layer] for each in (outputs, *sparsity)]
        kept, index = _stored(own, *shape)
        wide = np.minimum(8 * self._item_bytes[self._kernels], weight_bits[:, self._kernel_layer])
        indexed = np.ceil(kept * wide / 8) + np.ceil(index / 8)
        size = elements * self._item_bytes
        size[:, self._kernels] = np.minimum(np.ceil(own * wide / 8), indexed)
        size[:, self._kernels] += scales[:, self._kernel_layer] * (own > 0)
        stored = elements.copy()
        stored[:, self._kernels] = kept
        operations = elements * (self._macs * FULL**2)
        pairs = (weight_bits * reads)[:, self._kernel_layer]
        operations[:, self._kernels] = own * self._macs[self._kernels] * pairs
        return elements, stored, size, operations

    def _factorised(
        self, elements: np.ndarray, rank: np.ndarray, outputs: np.ndarray, inputs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return elements of rows where layers of lower rank are two, and the ranks that save."""
        whole, product = outputs * inputs, rank * (outputs + inputs)
        is_product = (rank > 0) & (product < whole)
        rank = np.where(is_product, rank, 0.0)
        smaller = np.divide(product, whole, out=np.ones_like(whole), where=is_product)
        wider = 1.0 + np.divide(rank, outputs, out=np.zeros_like(whole), where=is_product)
        elements = elements.copy()
        elements[:, self._kernels] *= smaller[:, self._kernel_layer]
        elements[:, self._written] *= wider[:, self._written_layer]
        return elements, rank


def _stored(
    elements: np.ndarray,
    outputs: np.ndarray,
    share: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return stored weights and index bits of kernels, as `Pattern.stored` for single ones."""
    is_there = elements > 0
    length = np.divide(elements, outputs, out=np.zeros_like(elements), where=outputs > 0)
    wide, high = np.maximum(columns, 1), np.maximum(rows, 1)
    single = np.maximum(1, np.round(share * elements))
    whole, rest = np.divmod(length, wide)
    each = np.round(share * columns)
    of_many = outputs * (whole * each + np.minimum(rest, each))
    blocks = np.ceil(outputs / high) * np.ceil(length / wide)
    in_blocks = np.minimum(elements, np.maximum(1, np.round(share * blocks)) * high * wide)
    is_block, is_of_many = rows > 0, (rows == 0) & (columns > 0)
    stored = np.select([is_block, is_of_many], [in_blocks, of_many], single)
    index = np.select([is_block, is_of_many], [blocks, of_many * np.ceil(np.log2(wide))], elements)
    is_sparse = share < 1.0
    return np.where(is_sparse & is_there, stored, elements), index * is_sparse * is_there


def _is_kernel(row: CostRow) -> bool:
    return row.params > 0 and row.macs > 0


def _is_output(row: CostRow) -> bool:
    return row.written_bytes > 0


def padded(lists: list[list[int]], filler: int) -> np.ndarray:
    """Return lists of different lengths as one array, the rest filled with `filler`."""
    width = max((len(each) for each in lists), default=0)
    rows = [each + [filler] * (width - len(each)) for each in lists]
    return np.array(rows, dtype=np.int64).reshape(len(lists), width)
