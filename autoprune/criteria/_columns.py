"""Columns of kernels: what belongs to an input channel, seen from the weights that read it."""

from __future__ import annotations

import numpy as np


def by_column(per_input: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return what belongs to the input channel of every weight, broadcast to the kernel.

    `per_input` has shape (input channels,). An output of a convolution in groups reads the
    channels of its own group alone. The result has shape (outputs, inputs of one, 1, ...).
    """
    outputs, inputs = kernel.shape[:2]
    blocks = per_input.reshape(-1, inputs)
    rows = np.repeat(blocks, outputs // len(blocks), axis=0)
    return rows.reshape(outputs, inputs, *(1 for _ in kernel.shape[2:]))
