"""Modules that only work at their full width, in a network that has become narrower.

A shortcut written as a Python function (`lambda x: F.pad(x, …)`) remembers sizes where
nobody can change them. It holds no parameters, so it may run at its full width: what left
is filled in with zeros before it, and dropped after it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

Masks = Mapping[int, np.ndarray]
"""Per dimension which entries are kept, shape (size,)."""


class Bridge(nn.Module):
    """Runs `module` at its full width; takes and returns the kept entries."""

    def __init__(self, module: nn.Module, enter: Masks, leave: Masks) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self._enter = {
            dim: self._index(f"enter_{dim}", _spread(mask)) for dim, mask in enter.items()
        }
        self._leave = {
            dim: self._index(f"leave_{dim}", np.flatnonzero(mask)) for dim, mask in leave.items()
        }

    def _index(self, name: str, index: np.ndarray) -> str:
        self.register_buffer(name, torch.from_numpy(index), persistent=False)
        return name

    def forward(self, x: Tensor) -> Tensor:
        """Widen, run, narrow."""
        for dim, name in self._enter.items():
            zero = torch.zeros_like(x.narrow(dim, 0, 1))
            x = torch.cat([x, zero], dim).index_select(dim, self.get_buffer(name))
        out: Tensor = self.module(x)
        for dim, name in self._leave.items():
            out = out.index_select(dim, self.get_buffer(name))
        return out


def bridged(network: nn.Module, masks: Mapping[str, Masks]) -> nn.Module:
    """Wrap the modules that `masks` names as "module:enter" and "module:leave", in place."""
    for path in dict.fromkeys(name.partition(":")[0] for name in masks):
        enter, leave = masks.get(f"{path}:enter", {}), masks.get(f"{path}:leave", {})
        bridge = Bridge(network.get_submodule(path), enter, leave)
        network.set_submodule(path, bridge.to(next(network.parameters()).device))
    return network


def _spread(kept: np.ndarray) -> np.ndarray:
    """Return where every entry of the full width comes from; one past the end is zero."""
    index = np.full(len(kept), int(kept.sum()))
    index[kept] = np.arange(int(kept.sum()))
    return index
