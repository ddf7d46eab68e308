"""2:4 sparsity: matrices with at most two non-zeros in four, and how tensor cores read them.

    values, meta = packed(matrix)      # (m, k) -> (m, k / 2) and int16 (m, k / 16)
    unpacked(values, meta)             # the matrix again

Of every four consecutive entries of a row two are stored, with their places: 2 bits each, the
lower place in the lower bits, sixteen entries to a word. The words lie as CUTLASS wants them
(`reorder_meta` in tools/util/include/cutlass/util/host_reorder.h, `ColumnMajorInterleaved<2>`),
which is what PyTorch's `SparseSemiStructuredTensorCUTLASS` holds in `packed` and `meta`.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The two places that are stored, by which of four are non-zero (the first is bit 0). Where
# fewer are, the rest is filled up as PyTorch does, so that equal kernels have equal files.
_PLACES = {
    0b0000: (2, 3),
    0b0001: (0, 2),
    0b0010: (1, 2),
    0b0011: (0, 1),
    0b0100: (2, 3),
    0b0101: (0, 2),
    0b0110: (1, 2),
    0b1000: (2, 3),
    0b1001: (0, 3),
    0b1010: (1, 3),
    0b1100: (2, 3),
}


def share_that_fits(matrix: Tensor) -> float:
    """Return the share of blocks of four with at most two non-zeros; 4 divides the columns."""
    counts = (matrix.reshape(-1, 4) != 0).sum(-1)
    return float((counts <= 2).double().mean())


def packed(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (m, k / 2) and reordered places, int16 (m, k / 16), of a 2:4 matrix (m, k).

    The matrix has 16 bits per entry; 32 divides m, and 64 divides k.
    """
    rows, columns = matrix.shape
    blocks = matrix.view(rows, columns // 4, 4)
    table = torch.zeros(16, 2, dtype=torch.int64)
    for pattern, pair in _PLACES.items():
        table[pattern] = torch.tensor(pair)
    places = table[((blocks != 0) << torch.arange(4)).sum(-1)]
    values = blocks.gather(-1, places).view(rows, columns // 2)
    quads = places[..., 0] | places[..., 1] << 2
    words = (quads.view(rows, columns // 16, 4) << torch.arange(0, 16, 4)).sum(-1)
    meta = torch.empty(words.numel(), dtype=torch.int16)
    meta[_offsets(rows, columns // 16)] = words.to(torch.int16).view(-1)
    return values, meta.view(rows, columns // 16)


def unpacked(values: Tensor, meta: Tensor) -> Tensor:
    """Return the matrix (m, k) of values (m, k / 2) and reordered places (m, k / 16)."""
    rows, words = meta.shape
    ordered = meta.reshape(-1)[_offsets(rows, words)].to(torch.int64)
    places = (ordered[:, None] >> torch.arange(0, 16, 2) & 0b11).view(rows, words * 4, 2)
    blocks = values.new_zeros(rows, words * 4, 4)
    blocks.scatter_(-1, places, values.view(rows, words * 4, 2))
    return blocks.view(rows, words * 16)


def _offsets(rows: int, words: int) -> Tensor:
    """Return where each word of a row-major matrix (rows, words) lies, shape (rows × words,)."""
    row = torch.arange(rows)[:, None].expand(rows, words)
    word = torch.arange(words).expand(rows, words)
    # Rows of 32 are interwoven by fours, then 2×2 squares of words are transposed.
    row = row // 32 * 32 + row % 8 * 4 + row % 32 // 8
    swap = (word % 2) - (row % 2)
    row, word = row + swap, word - swap
    return (word // 2 * rows * 2 + row * 2 + word % 2).reshape(-1)
