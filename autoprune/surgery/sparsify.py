"""Single weights that leave: which ones, and a kernel that is zero there.

    sparsity = Sparsity(sparse_kernels(groups, policy), saliencies)
    settle(network, sparsity.chosen)                  # what leaves becomes zero, in place

A kernel is seen as a matrix (`matrix_of`), in which the pattern of a decision has its rows and
columns. As many weights stay as the tables of cost count (`Pattern.stored`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from autoprune.graph.group import GroupTable
from autoprune.pattern import Pattern
from autoprune.policy import LayerDecision, Policy

Masks = Mapping[str, Tensor]
"""Which weights stay, bool in the shape of the kernel, by the kernel's name."""


def matrix_of(kernel: Tensor) -> Tensor:
    """Return a kernel (outputs, inputs, …) as a matrix (outputs, … × inputs), a copy or a view.

    Inputs vary fastest: columns in a row are input channels at one place of the kernel, as
    NVIDIA's ASP takes them (`create_mask` in apex/contrib/sparsity/sparse_masklib.py).
    """
    return kernel.movedim(1, -1).flatten(1).contiguous()


def kernel_of(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return the kernel of this shape whose matrix is given: the inverse of `matrix_of`."""
    outputs, inputs, *places = shape
    return matrix.reshape(outputs, *places, inputs).movedim(-1, 1)


@dataclass(frozen=True)
class Sparsity:
    """The single weights that leave a network.

    `decisions` are those about kernels that lose any, by the kernels' names, and `saliencies`
    what the criterion of the policy finds every weight worth, in the kernels' shapes.
    """

    decisions: Mapping[str, LayerDecision]
    saliencies: Mapping[str, Tensor]

    @cached_property
    def chosen(self) -> dict[str, Tensor]:
        """What stays by the criterion's saliencies when all has left that leaves; not changed."""
        return self.masks()

    def masks(
        self, share: float = 1.0, saliencies: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return what stays when `share` of all that leaves has left, in [0, 1].

        Those of the highest saliency stay, by the criterion's unless others are given; of equal
        ones the earlier.
        """
        known = self.saliencies if saliencies is None else saliencies
        return {name: mask_of(known[name], each, share) for name, each in self.decisions.items()}


def sparse_kernels(groups: GroupTable, policy: Policy) -> dict[str, LayerDecision]:
    """Return the decisions about kernels that lose single weights, by the kernels' names."""
    return {
        name: policy.layer(layer.name)
        for layer in groups.layers
        for name in layer.tensors
        if policy.layer(layer.name).is_sparse
    }


@torch.no_grad()
def mask_of(saliency: Tensor, decision: LayerDecision, share: float = 1.0) -> Tensor:
    """Return which weights of a kernel stay, bool in its shape, when `share` of the rest left."""
    matrix = matrix_of(saliency)
    shape, keep_ratio = decision.shape, 1.0 - share * (1.0 - decision.keep_ratio)
    if shape.is_n_of_m:
        kept = _n_of_m(matrix, round(keep_ratio * shape.columns), shape.columns)
    elif shape.is_blocks:
        kept = _blocks(matrix, shape, keep_ratio)
    else:
        kept = _best(matrix.flatten(), max(1, round(keep_ratio * matrix.numel())))
        kept = kept.view_as(matrix)
    return kernel_of(kept, saliency.shape)


@torch.no_grad()
def settle(network: nn.Module, masks: Masks) -> None:
    """Make everything zero that left, in place; of kernels made from others, in those."""
    for name, mask in masks.items():
        layer, _, kernel = name.rpartition(".")
        module: Any = network.get_submodule(layer)
        is_made = parametrize.is_parametrized(module, kernel)
        stored = (
            module.parametrizations[kernel].original if is_made else module.get_parameter(kernel)
        )
        stored.mul_(mask)


def _best(values: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` highest of some values, shape (n,)."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    order = torch.argsort(values, descending=True, stable=True)
    mask[order[:count]] = True
    return mask


def _n_of_m(matrix: Tensor, kept: int, many: int) -> Tensor:
    """Return a mask that keeps the best `kept` of `many` columns; of fewer at the end, as many."""
    rows, length = matrix.shape
    padded = functional.pad(matrix, (0, -length % many), value=-torch.inf)
    groups = padded.view(rows, -1, many)
    order = torch.argsort(groups, dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    mask.scatter_(-1, order[..., :kept], value=True)
    return mask.view(rows, -1)[:, :length]


def _blocks(matrix: Tensor, shape: Pattern, share: float) -> Tensor:
    """Return a mask that keeps the blocks whose weights are worth most on average."""
    rows, length = matrix.shape
    edges = (0, -length % shape.columns, 0, -rows % shape.rows)
    values, ones = (
        functional.pad(each, edges)
        .unfold(0, shape.rows, shape.rows)
        .unfold(1, shape.columns, shape.columns)
        .sum(dim=(-2, -1))
        for each in (matrix, torch.ones_like(matrix))
    )
    kept = _best((values / ones).flatten(), max(1, round(share * values.numel())))
    tiles = kept.view_as(values)
    tiles = tiles.repeat_interleave(shape.rows, 0).repeat_interleave(shape.columns, 1)
    return tiles[:rows, :length]
