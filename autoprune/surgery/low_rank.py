"""Low rank: one layer becomes two smaller ones, whose product is close to it.

    factorise(network, {"fc1": 16}, moments=moments, kept=plan.kept_entries(policy))
    decisions = expanded(policy.layers)      # {"fc1.0": ..., "fc1.1": ...}

With the second moments of what a layer reads, its outputs are what comes close: of W C Wᵀ,
the moments C of x seen through the kernel W, the r leading eigenvectors U span the outputs that
matter, and U Uᵀ W is the best kernel of rank r. With C = 1 that is the SVD of W.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from autoprune.errors import PolicyError
from autoprune.policy import LayerDecision
from autoprune.surgery.reconstruct import RIDGES, LayerMoments, Moments
from autoprune.tracing.layers import is_plain

_CONVS = nn.Conv1d, nn.Conv2d, nn.Conv3d


@torch.no_grad()
def factorise(
    network: nn.Module,
    ranks: Mapping[str, int],
    *,
    moments: Moments | None = None,
    kept: Mapping[tuple[str, int], np.ndarray] | None = None,
) -> None:
    """Replace layers of a network by two in a row, `NAME.0` and `NAME.1`, in place.

    `ranks` gives the channels between the two of each linear layer and 1×1 convolution in one
    group. `moments` are those of the dense network, and `kept` what the network still has of it
    (`Plan.kept_entries`); kernels of layers without moments come close themselves. Strides and
    padding go to the first layer, the bias to the second. Raises `PolicyError` for another
    layer, or a rank that it does not have.
    """
    for name, rank in ranks.items():
        layer: Any = network.get_submodule(name)
        _check(name, layer, rank)
        kernel = layer.weight.flatten(1).double()
        known = moments.layers.get(name) if moments is not None else None
        covariance, means = _seen(known, (kept or {}).get((f"{name}.weight", 1)), kernel)
        _, vectors = torch.linalg.eigh(kernel @ covariance @ kernel.T)
        second = vectors[:, -rank:]
        first = second.T @ kernel
        first_layer, second_layer = _pair(layer, rank)
        first_layer.weight.copy_(first.view_as(first_layer.weight))
        second_layer.weight.copy_(second.reshape(second_layer.weight.shape))
        if layer.bias is not None:
            second_layer.bias.copy_(layer.bias + (kernel - second @ first) @ means)
        parent, _, own = name.rpartition(".")
        pair = nn.Sequential(first_layer, second_layer).train(layer.training)
        setattr(network.get_submodule(parent), own, pair.requires_grad_(layer.weight.requires_grad))


def expanded(decisions: Mapping[str, LayerDecision]) -> dict[str, LayerDecision]:
    """Return decisions by the names of the layers that there are after factorising."""
    found: dict[str, LayerDecision] = {}
    for name, decision in decisions.items():
        names = [name] if decision.rank is None else [f"{name}.0", f"{name}.1"]
        found |= dict.fromkeys(names, replace(decision, rank=None))
    return found


def expanded_pairs(
    pairs: Iterable[tuple[str, str]], decisions: Mapping[str, LayerDecision]
) -> list[tuple[str, str]]:
    """Return (convolution, batch norm) pairs by the layers' names after factorising."""
    ranked = {name for name, each in decisions.items() if each.rank is not None}
    return [(f"{conv}.1" if conv in ranked else conv, norm) for conv, norm in pairs]


def _check(name: str, layer: Any, rank: int) -> None:
    is_matrix = is_plain(layer) and layer.weight.flatten(1).shape[1] == layer.weight.shape[1]
    if not is_matrix or getattr(layer, "groups", 1) != 1:
        raise PolicyError(
            f"layer {name!r} cannot become two of lower rank: {layer}; linear layers and 1×1 "
            "convolutions in one group can"
        )
    most = min(layer.weight.shape[:2])
    if not 1 <= rank <= most:
        raise PolicyError(f"the rank of layer {name!r} must be 1 to {most}, given: {rank}")


def _seen(
    moments: LayerMoments | None, kept: np.ndarray | None, kernel: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the moments (d, d) that the kernel's outputs have to match, and what is taken out.

    The bias makes up for the means (d,) of what is read, so that they are not in the moments.
    """
    inputs = kernel.shape[1]
    means = kernel.new_zeros(inputs)
    if moments is None:
        return torch.eye(inputs, dtype=kernel.dtype, device=kernel.device), means
    index = torch.arange(len(moments.gram) - moments.has_bias, device=kernel.device)
    if kept is not None:
        index = index[torch.from_numpy(kept).to(kernel.device)]
    covariance = moments.gram[index][:, index]
    if moments.has_bias:
        means = moments.gram[index, -1]
        covariance = covariance - torch.outer(means, means)
    # Directions that no sample had are told apart by the kernel alone.
    covariance.diagonal().add_(RIDGES[0] * covariance.diagonal().mean().clamp(min=1e-30))
    return covariance, means


def _pair(layer: Any, rank: int) -> tuple[Any, Any]:
    """Return the two layers without their weights, on the layer's device, in its number format."""
    where = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    outputs, inputs = layer.weight.shape[:2]
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return (
            skip_init(nn.Linear, inputs, rank, bias=False, **where),
            skip_init(nn.Linear, rank, outputs, bias=has_bias, **where),
        )
    kind = next(each for each in _CONVS if isinstance(layer, each))
    moves = {"stride": layer.stride, "padding": layer.padding, "padding_mode": layer.padding_mode}
    return (
        skip_init(kind, inputs, rank, 1, bias=False, **moves, **where),
        skip_init(kind, rank, outputs, 1, bias=has_bias, **where),
    )
