"""The plan: everything about a network that carving needs, computed once.

    plan = Plan(model, graph.groups, scores)
    network = plan.carve(policy)         # a new, smaller network; the original is untouched

Carving is slicing: kept positions come from cached scores and index maps, kept entries
are copied once, and the module tree is cloned around them without copying a tensor that
was sliced. Nothing is traced again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.errors import PolicyError, suggestion
from autoprune.graph.group import GroupTable, Side
from autoprune.policy import Policy

Scores = Mapping[str, np.ndarray]
Kept = dict[tuple[str, Side], Tensor]


@dataclass(frozen=True)
class _Cut:
    """How one tensor of a module shrinks: the dimension that each side indexes."""

    tensor: str
    out_dim: int | None
    in_dim: int | None


class Plan:
    """Carves candidates out of one network; the model must not change in between.

    `scores` maps a criterion's name to the scores of every prunable group, each of shape
    (units,); of equal scores the earlier unit stays.
    """

    def __init__(self, model: nn.Module, groups: GroupTable, scores: Mapping[str, Scores]) -> None:
        self.model = model
        self.groups = groups
        # Ranks are sorted once: the kept units of any count are a prefix.
        self._ranked = {
            criterion: {name: np.argsort(-each, kind="stable") for name, each in table.items()}
            for criterion, table in scores.items()
        }

    def kept_units(self, policy: Policy) -> dict[str, np.ndarray]:
        """Return the sorted kept units of every group that `policy` reduces."""
        ranked = self._ranked.get(policy.recipe.criterion)
        if ranked is None:
            allowed = suggestion(policy.recipe.criterion, self._ranked)
            raise PolicyError(f"no scores by {policy.recipe.criterion!r}; {allowed}")
        return {
            name: np.sort(ranked[name][:count])
            for name, count in self.groups.kept_units(policy).items()
            if count < self.groups[name].units
        }

    def carve(self, policy: Policy) -> nn.Module:
        """Return the pruned network, in the original's mode, dtype and device.

        Raises `PolicyError` when the policy names groups that are unknown or frozen, or a
        criterion without scores.
        """
        kept = self._kept_entries(self.kept_units(policy))
        memo: dict[int, object] = {}
        modules = {module: self.model.get_submodule(module) for module, _ in kept}
        for name, module in modules.items():
            out, inside = kept.get((name, "out")), kept.get((name, "in"))
            for old, new in _sliced(module, out, inside):
                memo[id(old)] = new
        network = copy.deepcopy(self.model, memo)
        for name in modules:
            _resize(network.get_submodule(name), kept.get((name, "out")), kept.get((name, "in")))
        return network

    def _kept_entries(self, kept_units: Mapping[str, np.ndarray]) -> Kept:
        """Return the kept positions of every module side that loses any."""
        masks: dict[tuple[str, Side], np.ndarray] = {}
        for name, units in kept_units.items():
            group = self.groups[name]
            removed = np.ones(group.units, dtype=bool)
            removed[units] = False
            for each in group.slices:
                mask = masks.setdefault((each.module, each.side), np.ones(each.size, dtype=bool))
                mask[each.entries[removed]] = False
        return {key: torch.from_numpy(np.flatnonzero(mask)) for key, mask in masks.items()}


def _cuts(module: nn.Module) -> tuple[_Cut, ...]:
    if isinstance(module, _ConvTransposeNd):
        return (_Cut("weight", 1, 0), _Cut("bias", 0, None))
    if isinstance(module, _ConvNd):
        # A depthwise kernel has no input dimension of its own.
        return (_Cut("weight", 0, None if module.groups > 1 else 1), _Cut("bias", 0, None))
    if isinstance(module, nn.Linear):
        return (_Cut("weight", 0, 1), _Cut("bias", 0, None))
    assert isinstance(module, _BatchNorm), type(module)
    return tuple(_Cut(name, 0, None) for name in ("weight", "bias", "running_mean", "running_var"))


def _sliced(
    module: nn.Module, out: Tensor | None, inside: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every tensor of `module` that shrinks, with its replacement."""
    for cut in _cuts(module):
        old: Tensor | None = getattr(module, cut.tensor)
        if old is None:
            continue
        new = old.detach()
        for dim, index in ((cut.out_dim, out), (cut.in_dim, inside)):
            if dim is not None and index is not None:
                new = new.index_select(dim, index.to(old.device))
        if new.shape == old.shape:
            continue
        if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last):
            new = new.contiguous(memory_format=torch.channels_last)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        yield old, new


def _resize(module: nn.Module, out: Tensor | None, inside: Tensor | None) -> None:
    """Bring the sizes that a module remembers in line with its tensors."""
    if isinstance(module, _ConvNd):
        if out is not None:
            module.out_channels = len(out)
        if module.groups > 1:
            module.groups = module.in_channels = module.out_channels
        elif inside is not None:
            module.in_channels = len(inside)
    elif isinstance(module, nn.Linear):
        module.out_features = len(out) if out is not None else module.out_features
        module.in_features = len(inside) if inside is not None else module.in_features
    elif isinstance(module, _BatchNorm) and out is not None:
        module.num_features = len(out)
