"""Sparse kernels: some weights of a layer become zero, and the others make up for them.

    kernel = solve_sparse(moments.layers["conv2"], keep)

Inputs are gone through in the order of the kernel laid out flat. Where a weight becomes zero,
those of the inputs behind it that stay take the error on, the best they can in least squares
over what the layer reads; what comes before is settled (Frantar and Alistarh, SparseGPT,
ICML 2023). All rows share one factor of the inverse moments, so a layer of d inputs takes one
inversion and d² m operations, where exact least squares would take an inversion for every row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.surgery.reconstruct import LayerMoments


@torch.no_grad()
def solve_sparse(moments: LayerMoments, keep: Tensor, *, block: int = 128) -> Tensor | None:
    """Return the corrected kernel, shape (m, d), zero wherever `keep` is false.

    `keep` is boolean (m, d). Of a layer with a bias the last of the d columns is the bias, which
    always stays and is corrected as well. The kernel is in float64, on the device of the moments;
    None means that those hold NaN or infinity. Errors go on to later inputs a `block` at a time.
    """
    shape = tuple(moments.weight.T.shape)
    if keep.dtype != torch.bool or tuple(keep.shape) != shape:
        raise ValueError(
            f"keep must be boolean, of shape {shape}; given {keep.dtype}, {tuple(keep.shape)}"
        )
    factor = _factor(moments)
    if factor is None:
        return None
    kernel, keep = moments.weight.T.clone(), keep.to(moments.weight.device)
    weights = kernel.shape[1] - int(moments.has_bias)
    for first in range(0, weights, block):
        some = slice(first, min(first + block, weights))
        errors = _settle(kernel, keep, factor, some)
        kernel[:, some.stop :] -= errors @ factor[some, some.stop :]
    return kernel


def _factor(moments: LayerMoments) -> Tensor | None:
    """Return the upper triangle U, shape (d, d), with UᵀU = H⁻¹.

    Row j of U, divided by U_jj, says how the inputs from j on share an error of the j-th, and
    U_jj² is [H⁻¹]_jj of these inputs alone.
    """
    inverse = moments.inverse()
    if inverse is None:
        return None
    factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    return None if failed else factor


def _settle(kernel: Tensor, keep: Tensor, factor: Tensor, some: slice) -> Tensor:
    """Zero what leaves of a block of inputs, and correct the rest of the block.

    Returns the errors (m, inputs of the block) that the inputs behind it take on.
    """
    errors = kernel.new_zeros(len(kernel), some.stop - some.start)
    for column in range(some.start, some.stop):
        lost = torch.where(keep[:, column], 0.0, kernel[:, column])
        error = lost / factor[column, column]
        kernel[:, column] -= lost
        rest = slice(column + 1, some.stop)
        kernel[:, rest] -= torch.outer(error, factor[column, rest])
        errors[:, column - some.start] = error
    return errors
