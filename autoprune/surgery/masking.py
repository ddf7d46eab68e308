"""The masked form of a pruned network: the original's shapes, and zeros for what left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autoprune.graph.block import Block
from autoprune.surgery.clone import cloned
from autoprune.surgery.depth import silence

_LAYER_NORMS = frozenset({functional.layer_norm, torch.layer_norm})
_GROUP_NORMS = frozenset({functional.group_norm, torch.group_norm})


def masked(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    kept: Mapping[tuple[str, int], np.ndarray],
    blocks: Iterable[Block] = (),
) -> nn.Module:
    """Return `model` with zeros in place of the entries that leave and of what `blocks` add.

    Tensors that lose nothing are shared with `model`.
    """
    memo: dict[int, object] = {id(each): each for each in tensors.values()}
    for (name, dim), mask in kept.items():
        # A weight-normed kernel is divided by its norm: its length alone becomes zero.
        if name not in tensors or name.endswith(".original1"):
            continue
        old = tensors[name]
        new = memo[id(old)] if memo[id(old)] is not old else _clone(old)
        assert isinstance(new, Tensor)
        lost = torch.from_numpy(np.flatnonzero(~mask)).to(old.device)
        new.data.index_fill_(dim, lost, 0)
        memo[id(old)] = new
    twin = cloned(model, memo)
    silence(twin, blocks)
    norms: dict[str, Tensor] = {}
    for name, module in twin.named_modules():
        place = (f"{name}.weight".lstrip("."), 0)
        if isinstance(module, nn.LayerNorm | nn.GroupNorm) and place in kept:
            norms[place[0]] = torch.from_numpy(kept[place]).to(module.weight.device)
    return _Masked(twin, norms) if norms else twin


def norms_without(
    network: nn.Module, masks: Mapping[str, Tensor]
) -> AbstractContextManager[object]:
    """Let layer and group norms compute without the units that left, while it is open.

    `masks` says which entries of parameters stay, bool in their shapes; those of other
    parameters than scales of such norms change nothing.
    """
    scales = {
        f"{name}.weight".lstrip("."): module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.LayerNorm | nn.GroupNorm)
    }
    norms = {id(scales[name]): mask for name, mask in masks.items() if name in scales}
    return _MaskedNorms(norms) if norms else nullcontext()


def _clone(old: Tensor) -> Tensor:
    new = old.detach().clone()
    return (
        nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
    )


class _Masked(nn.Module):
    """Runs a network with normalisations that leave masked units out of their statistics."""

    def __init__(self, network: nn.Module, norms: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        self._norms = dict(norms)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        with norms_without(self.network, self._norms):
            return self.network(*args, **kwargs)


class _MaskedNorms(TorchFunctionMode):
    """Replaces layer and group normalisation by the weights that they use."""

    def __init__(self, norms: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._norms = norms

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation; a normalisation with a mask runs in its masked form."""
        kwargs = dict(kwargs or {})
        if func in _LAYER_NORMS or func in _GROUP_NORMS:
            names = ("input", "shape", "weight", "bias", "eps")
            given = dict(zip(names, args, strict=False)) | kwargs
            mask = self._norms.get(id(given.get("weight")))
            if mask is not None and func in _LAYER_NORMS:
                return _normalised(given, mask, 1, channel_axis=-1)
            if mask is not None:
                blocks: int = given["num_groups"] if "num_groups" in given else given["shape"]
                return _normalised(given, mask, blocks, channel_axis=1)
        return func(*args, **kwargs)


def _normalised(
    given: Mapping[str, Any], kept: Tensor, blocks: int, *, channel_axis: int
) -> Tensor:
    """Normalise blocks of channels over the kept ones; the rest comes out as zero."""
    x: Tensor = given["input"].movedim(channel_axis, -1)
    eps = given.get("eps", 1e-5)
    split = x.unflatten(-1, (blocks, -1))
    mask = kept.to(x.dtype).view(blocks, -1)
    # Layer norm works at each position alone, group norm over all of a sample's.
    spatial = tuple(range(1, split.dim() - 2)) if channel_axis == 1 else ()
    positions = math.prod(split.shape[axis] for axis in spatial)
    axes = (*spatial, -1)
    count = (mask.sum(-1, keepdim=True) * positions).clamp(min=1.0)
    mean = (split * mask).sum(axes, keepdim=True) / count
    centred = (split - mean) * mask
    variance = (centred**2).sum(axes, keepdim=True) / count
    plain = (centred / (variance + eps).sqrt()).flatten(-2)
    out: Tensor = plain * given["weight"]
    if given.get("bias") is not None:
        out = out + given["bias"]
    return out.movedim(-1, channel_axis)
