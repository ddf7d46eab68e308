"""Layers that skip zeros: what a linear layer or a convolution computes, from a sparse kernel.

    for form in forms(layer, in_half=False):     # none where there are no kernels for it
        outputs = form(inputs)                   # those of `layer(inputs)`, in the same layout
    layer.forward = form                         # it is called as the layer's own is

On the CPU a kernel is stored by rows (CSR), and in blocks (BSR) where its weights lie in blocks;
MKL multiplies, and a convolution is one product with its unfolded input. On CUDA a 2:4 kernel in
half precision runs on tensor cores (`torch.sparse`, "Sparse Semi-Structured Tensors").

One core with AVX2, kernels of 768 × 3072: rows win from a fifth of the weights on where there are
1 or 16 rows of inputs (half of them is a draw), and from a tenth on where there are 200; there,
blocks of 8 × 8 do from a fifth on. Convolutions of 1 × 1 win from a tenth on, of 3 × 3 where
channels are many and a twentieth is left. Kernels of 64 × 64 never do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.runtimes.torch_runtime import is_channels_last

Form = Callable[[Tensor], Tensor]

_SMALL = 64 * 64
_SPARSE = 0.6  # the most weights that may be left for zeros to be worth skipping
_BLOCKS = (8, 4)
_FULL = 0.9  # so full are blocks where weights lie in blocks


def has_kernels(layer: Any, *, in_half: bool) -> bool:
    """Say whether there are kernels that skip the zeros of layers like this, where it lies.

    `in_half` says that it may run in half precision, which tensor cores need.
    """
    if type(layer) is nn.Linear and layer.weight.is_cuda:
        return in_half and _is_two_four(layer.weight)
    if type(layer) not in (nn.Linear, nn.Conv2d) or layer.weight.dtype is not torch.float32:
        return False
    if layer.weight.is_cuda:
        return False
    return type(layer) is nn.Linear or (
        layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    )


@torch.no_grad()
def forms(layer: Any, *, in_half: bool) -> Iterator[Form]:
    """Yield the ways to run a layer without its zeros that may be worth it.

    Raises `RuntimeError` where this GPU has no kernels, or none of these widths.
    """
    if not has_kernels(layer, in_half=in_half):
        return
    if layer.weight.is_cuda:
        yield _TensorCores(layer)
        return
    matrix = layer.weight.flatten(1)
    if matrix.numel() <= _SMALL or _density(matrix) > _SPARSE:
        return
    for kernel in _stored(matrix):
        product = _Product(kernel, layer.bias)
        yield _Linear(product) if type(layer) is nn.Linear else _Convolution(product, layer)


class _Product:
    """A sparse kernel (outputs, n) times columns (n, m), and a bias (outputs,) where given."""

    def __init__(self, kernel: Tensor, bias: Tensor | None) -> None:
        self._kernel = kernel
        self._bias = bias

    def __call__(self, columns: Tensor) -> Tensor:
        # Rows take a vector in half the time of a matrix of one column; blocks do not.
        if columns.shape[1] == 1 and self._kernel.layout is torch.sparse_csr:
            single = torch.mv(self._kernel, columns[:, 0])
            return (single if self._bias is None else single + self._bias)[:, None]
        if self._bias is None:
            return torch.mm(self._kernel, columns)
        return torch.addmm(self._bias[:, None], self._kernel, columns)


class _Linear:
    """A linear layer, of inputs (…, n)."""

    def __init__(self, product: _Product) -> None:
        self._product = product

    def __call__(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        # Networks view what a linear layer returns in other shapes, so it has to lie in rows.
        return self._product(rows.t()).t().contiguous().view(*input.shape[:-1], -1)


class _Convolution:
    """A 2-d convolution without groups, of inputs (batch, channels, height, width)."""

    def __init__(self, product: _Product, layer: nn.Conv2d) -> None:
        self._product = product
        self._layer = layer
        sizes = (layer.kernel_size, layer.stride, layer.padding)
        self._is_pointwise = sizes == ((1, 1), (1, 1), (0, 0))

    def __call__(self, input: Tensor) -> Tensor:
        if input.dim() == 3:  # without a batch
            return self(input[None])[0]
        columns = input.flatten(2) if self._is_pointwise else self._unfolded(input)
        batch, length, places = columns.shape
        found = self._product(columns.transpose(0, 1).reshape(length, -1))
        height = self._height(input)
        outputs = found.view(-1, batch, height, places // height).transpose(0, 1)
        is_last = is_channels_last(input) or is_channels_last(self._layer.weight)
        layout = torch.channels_last if is_last else torch.contiguous_format
        return outputs.contiguous(memory_format=layout)

    def _unfolded(self, inputs: Tensor) -> Tensor:
        """Return what the kernel is multiplied with: (batch, weights of a row, places)."""
        layer: Any = self._layer
        return functional.unfold(
            inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        )

    def _height(self, inputs: Tensor) -> int:
        layer: Any = self._layer
        reach = layer.dilation[0] * (layer.kernel_size[0] - 1)
        return int((inputs.shape[2] + 2 * layer.padding[0] - reach - 1) // layer.stride[0] + 1)


class _TensorCores:
    """A linear layer in half precision with a 2:4 kernel; inputs and outputs are as they were."""

    def __init__(self, layer: nn.Linear) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the interface is a prototype
            self._kernel = torch.sparse.to_sparse_semi_structured(
                layer.weight.detach().half().contiguous()
            )
        self._bias = None if layer.bias is None else layer.bias.detach().half()

    def __call__(self, input: Tensor) -> Tensor:
        # It views its inputs in two dimensions.
        halved = input.half().contiguous()
        return functional.linear(halved, self._kernel, self._bias).to(input.dtype)


def _stored(matrix: Tensor) -> list[Tensor]:
    """Return a matrix by its rows, and in blocks where that is what its weights lie in.

    MKL takes places of 32 bits; those of 64 would be converted at every pass.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these layouts are in beta state
        found = [matrix.to_sparse_csr()]
        blocks = [size for size in _BLOCKS if _is_of(matrix, size)]
        if blocks:
            found.append(matrix.to_sparse_bsr((blocks[0], blocks[0])))
        return [
            torch.sparse_compressed_tensor(
                each.crow_indices().int(),
                each.col_indices().int(),
                each.values(),
                each.shape,
                layout=each.layout,
            )
            for each in found
        ]


def _is_of(matrix: Tensor, size: int) -> bool:
    """Say whether the weights of a matrix lie in square blocks."""
    if any(each % size for each in matrix.shape):
        return False
    tiles = (matrix != 0).unflatten(1, (-1, size)).unflatten(0, (-1, size)).any(dim=1).any(dim=-1)
    return _density(matrix) >= _FULL * _density(tiles)


def _density(matrix: Tensor) -> float:
    """Return the share of a matrix that is not zero."""
    return float((matrix != 0).float().mean())


def _is_two_four(matrix: Tensor) -> bool:
    """Say whether at most two of every four consecutive columns are not zero."""
    if matrix.shape[1] % 4:
        return False
    return int((matrix != 0).unflatten(1, (-1, 4)).sum(-1).max()) <= 2
