"""Sparse kernels: some weights of a layer become zero, and the others make up for them.

    kernel = solve_sparse(moments.layers["conv2"], keep)

The best kernel with given zeros is that whose outputs are closest, in least squares over what the
layer reads, to those of the dense one. Every row has its own zeros, and a system of its own to
solve: k³ operations for k weights that stay, so few are solved exactly (Frantar and Alistarh,
Optimal Brain Compression, NeurIPS 2022). Where many stay in a large layer, inputs are gone
through in the order of the kernel laid out flat instead: where a weight becomes zero, those of
the inputs behind it that stay take the error on, and what comes before is settled. All rows
share one factor of the inverse moments, so a layer of d inputs takes one inversion and d² m
operations (Frantar and Alistarh, SparseGPT, ICML 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.surgery.reconstruct import LayerMoments

_DEARER = 4.0
"""How many times what settling one input after the other takes may be spent on exact rows."""


@torch.no_grad()
def solve_sparse(
    moments: LayerMoments, keep: Tensor, *, is_exact: bool | None = None, block: int = 128
) -> Tensor | None:
    """Return the corrected kernel, shape (m, d), zero wherever `keep` is false.

    `keep` is boolean (m, d). Of a layer with a bias the last of the d columns is the bias, which
    always stays and is corrected as well. The kernel is in float64, on the device of the moments;
    None means that those hold NaN or infinity. Rows are solved exactly if `is_exact`, which by
    default is so where that takes at most a few times the operations; otherwise errors go on to
    later inputs, a `block` at a time.
    """
    shape = tuple(moments.weight.T.shape)
    if keep.dtype != torch.bool or tuple(keep.shape) != shape:
        raise ValueError(
            f"keep must be boolean, of shape {shape}; given {keep.dtype}, {tuple(keep.shape)}"
        )
    keep = keep.to(moments.weight.device, copy=True)
    keep[:, shape[1] - int(moments.has_bias) :] = True
    if is_exact is None:
        is_exact = _is_affordable(keep)
    return _rows(moments, keep) if is_exact else _settled(moments, keep, block)


def _is_affordable(keep: Tensor) -> bool:
    rows, inputs = keep.shape
    exact = float((keep.sum(dim=1).double() ** 3).sum()) / 3
    return exact <= _DEARER * (inputs**3 + inputs**2 * rows)


def _rows(moments: LayerMoments, keep: Tensor) -> Tensor | None:
    """Return the best kernel, solved row by row."""
    system = moments.damped()
    if system is None:
        return None
    dense, kernel = moments.weight.T, torch.zeros_like(moments.weight.T)
    owed = torch.where(keep, 0.0, dense) @ system
    for row, kept in enumerate(keep):
        places = kept.nonzero().flatten()
        own = system.index_select(0, places).index_select(1, places)
        taken = torch.cholesky_solve(owed[row, places, None], torch.linalg.cholesky(own))
        kernel[row, places] = dense[row, places] + taken[:, 0]
    return kernel


def _settled(moments: LayerMoments, keep: Tensor, block: int) -> Tensor | None:
    """Return a kernel whose inputs were settled one after the other."""
    factor = _factor(moments)
    if factor is None:
        return None
    kernel = moments.weight.T.clone()
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
