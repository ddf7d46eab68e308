"""Copying module trees: what `copy.deepcopy` does, several times faster.

Carving copies the tree around the tensors for every candidate, and most of what a module
holds is empty or immutable. Whatever is not is left to `copy.deepcopy`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_IMMUTABLE = frozenset(
    {int, float, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
)
_CONTAINERS = frozenset({dict, OrderedDict, set, list})
_KEEPS = -1  # in a memo, whose other keys are ids: some module does more when its mode changes


def cloned(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a copy of a module tree; `memo` maps ids of tensors to their replacements.

    Shared modules and tensors stay shared, as with `copy.deepcopy(module, memo)`. What
    modules have kept in evaluation (biases laid out, kernels fused) is let go of.
    """
    new = _module(module, memo)
    if _KEEPS in memo:
        # Such modules forget when they are set to training; every mode is restored.
        modes = [(each, each.training) for each in new.modules()]
        new.train()
        for each, mode in modes:
            each.training = mode
    return new


def _module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        found: nn.Module = memo[id(module)]
        return found
    kind: Any = type(module)
    if kind.train is not nn.Module.train:
        memo[_KEEPS] = True
    if _is_special(kind):
        special: nn.Module = copy.deepcopy(module, memo)
        return special
    new: nn.Module = kind.__new__(kind)
    memo[id(module)] = new
    new.__dict__.update(_entries(vars(module), memo))
    return new


@cache
def _is_special(kind: Any) -> bool:
    """Say whether a class copies itself in its own way."""
    return hasattr(kind, "__deepcopy__") or issubclass(kind, torch.jit.ScriptModule)


def _entries(source: Mapping[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    return {
        key: value if type(value) in _IMMUTABLE else _copied(value, memo)
        for key, value in source.items()
    }


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind is tuple and _IMMUTABLE.issuperset(map(type, value)):
        return value
    if kind in _CONTAINERS and not value:
        return kind()
    if id(value) in memo:
        return memo[id(value)]
    if kind is nn.Parameter or kind is Tensor:
        return _fresh(value, memo) if value.is_leaf else copy.deepcopy(value, memo)
    if kind is OrderedDict or kind is dict:
        new: dict[Any, Any] = kind()
        memo[id(value)] = new
        new.update(_entries(value, memo))
        return new
    if kind is list and _IMMUTABLE.issuperset(map(type, value)):
        memo[id(value)] = found = list(value)
        return found
    return _module(value, memo) if isinstance(value, nn.Module) else copy.deepcopy(value, memo)


def _fresh(value: Tensor, memo: dict[int, Any]) -> Tensor:
    """Return a copy of a leaf tensor in its own memory format."""
    new = value.detach().clone(memory_format=torch.preserve_format)
    if type(value) is nn.Parameter:
        new = nn.Parameter(new, value.requires_grad)
    elif value.requires_grad:
        new.requires_grad_()
    if value.grad is not None:
        new.grad = value.grad.clone()
    memo[id(value)] = new
    return new
