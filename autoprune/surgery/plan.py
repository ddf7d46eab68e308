"""The plan: everything about a network that carving needs, computed once.

    plan = Plan(model, graph.groups, scores)
    network = plan.carve(policy)         # a new, smaller network; the original is untouched
    network = plan.mask(policy)          # the same function in the original's shapes

Carving is slicing: kept positions come from cached scores and index maps, kept entries
are copied once, and the module tree is cloned around them without copying a tensor that
was sliced. Nothing is traced again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import PolicyError, suggestion
from autoprune.graph.block import Block, held
from autoprune.graph.group import GroupTable, PrunableGroup
from autoprune.policy import Policy
from autoprune.surgery.bridge import bridged
from autoprune.surgery.clone import cloned
from autoprune.surgery.depth import drop
from autoprune.surgery.masking import masked
from autoprune.surgery.sizes import refresh, set_size

Scores = Mapping[str, np.ndarray]
Place = tuple[str, int]
"""Name and dimension of a slice: of a tensor, of a number, of a module's side."""
Removed = Sequence[tuple[PrunableGroup, np.ndarray]]
"""Groups that lose units, and which ones: true in shape (units,)."""


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
        self._tensors = tensors_of(model)

    def kept_units(self, policy: Policy) -> dict[str, np.ndarray]:
        """Return the sorted kept units of every group that `policy` reduces."""
        counts = {
            name: count
            for name, count in self.groups.kept_units(policy).items()
            if count < self.groups[name].units
        }
        if not counts:  # nothing has to be ranked: the dense network's criterion is nobody's
            return {}
        ranked = self._ranked.get(policy.recipe.criterion)
        if ranked is None:
            allowed = suggestion(policy.recipe.criterion, self._ranked)
            raise PolicyError(f"no scores by {policy.recipe.criterion!r}; {allowed}")
        return {name: np.sort(ranked[name][:count]) for name, count in counts.items()}

    def carve(self, policy: Policy) -> nn.Module:
        """Return the pruned network, in the original's mode, dtype and device.

        Raises `PolicyError` when the policy names groups that are unknown or frozen, or a
        criterion without scores.
        """
        blocks = self.groups.dropped(policy)
        kept = self.kept_entries(policy)
        return carved(self.model, self._tensors, kept, self.factors(policy), blocks)

    def mask(self, policy: Policy) -> nn.Module:
        """Return the network of `carve` in the original's shapes: what leaves is zero.

        Normalisation over units that left is computed without them. For ranking where
        fixed shapes help, and for the proof; raises what `carve` raises.
        """
        blocks = self.groups.dropped(policy)
        return masked(self.model, self._tensors, self.kept_entries(policy), blocks)

    def factors(self, policy: Policy) -> dict[str, float]:
        """Return by what carving multiplies tensors, where attention is tempered."""
        return factors_without(self._removed(policy))

    def kept_entries(self, policy: Policy) -> dict[Place, np.ndarray]:
        """Return which positions stay, a boolean array (size,), wherever any leaves.

        Nothing is said of what leaves with a dropped block.
        """
        return entries_without(self._removed(policy), self.groups.dropped(policy))

    def sliced(self, tensors: Mapping[str, Tensor], policy: Policy) -> dict[str, Tensor]:
        """Return tensors that go with parameters of the dense network as carving leaves those."""
        indices = _indices(tensors, self.kept_entries(policy))
        return {name: _sliced(each, indices.get(name, {})) for name, each in tensors.items()}

    def _removed(self, policy: Policy) -> Removed:
        removed = []
        for name, units in self.kept_units(policy).items():
            gone = np.ones(self.groups[name].units, dtype=bool)
            gone[units] = False
            removed.append((self.groups[name], gone))
        return removed


def entries_without(removed: Removed, blocks: Sequence[Block]) -> dict[Place, np.ndarray]:
    """Return which positions stay when units and blocks leave."""
    masks: dict[Place, np.ndarray] = {}
    for group, gone in removed:
        kept = ~gone
        for each in group.slices:
            if blocks and held(blocks, _owner(each.tensor)):
                continue
            place = (each.tensor, each.dim)
            known = masks.get(place)
            if known is None and each.is_identity:
                masks[place] = kept  # one array for most slices of a group
            else:
                mask = np.ones(each.size, dtype=bool) if known is None else known.copy()
                mask[each.lost(gone)] = False
                masks[place] = mask
    return masks


def factors_without(removed: Removed) -> dict[str, float]:
    """Return by what tensors are multiplied when units of tempered groups leave."""
    factors: dict[str, float] = {}
    for group, gone in removed:
        for tensor, factor in group.factors(int((~gone).sum())).items():
            factors[tensor] = factors.get(tensor, 1.0) * factor
    return factors


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by its name; shared ones under each name."""
    named = dict(model.named_parameters(remove_duplicate=False))
    return {**named, **dict(model.named_buffers(remove_duplicate=False))}


def carved(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    kept: Mapping[Place, np.ndarray],
    factors: Mapping[str, float],
    blocks: Sequence[Block] = (),
    *,
    share: bool = False,
) -> nn.Module:
    """Return a copy of `model` that keeps only these entries of its tensors.

    Tensors in `factors` are multiplied by a number, and `blocks` are left out.
    With `share`, tensors that lose nothing are those of `model` itself.
    """
    indices = _indices(tensors, kept)
    memo: dict[int, object] = {id(each): each for each in tensors.values()} if share else {}
    for name, by_dim in indices.items():
        new = _sliced(tensors[name], by_dim)
        if factors.get(name, 1.0) != 1.0:
            new.data.mul_(factors[name])
        memo[id(tensors[name])] = new
    if blocks:  # what they hold need not be copied
        memo |= {id(each): each for name, each in tensors.items() if held(blocks, _owner(name))}
    network = cloned(model, memo)
    drop(network, blocks)
    changed = {id(tensors[name]) for name in indices}
    # A shared tensor has several owners, all of which remember its sizes.
    for module in dict.fromkeys(_owner(x) for x, each in tensors.items() if id(each) in changed):
        refresh(network.get_submodule(module))
    passages: dict[str, dict[int, np.ndarray]] = {}
    for (name, dim), mask in kept.items():
        if ":" in name:
            passages.setdefault(name, {})[dim] = mask
        elif name not in tensors:
            set_size(network, name.partition("#")[0], dim, int(mask.sum()))
    return bridged(network, passages)


def _indices(
    tensors: Mapping[str, Tensor], kept: Mapping[Place, np.ndarray]
) -> dict[str, dict[int, Tensor]]:
    """Return the kept positions of every tensor that loses any, by dimension."""
    rows: dict[int, Tensor] = {}
    indices: dict[str, dict[int, Tensor]] = {}
    for (name, dim), mask in kept.items():
        if name in tensors:
            if id(mask) not in rows:  # most slices of a group share one mask
                rows[id(mask)] = torch.from_numpy(np.flatnonzero(mask))
            indices.setdefault(name, {})[dim] = rows[id(mask)]
    return indices


def _owner(name: str) -> str:
    """Return the module of a tensor, of a number, or of a passage through it."""
    return name.partition(":")[0] if ":" in name else name.rpartition(".")[0]


def _sliced(old: Tensor, indices: Mapping[int, Tensor]) -> Tensor:
    """Return the kept entries of a tensor in its own memory format."""
    new = old.detach()
    order = list(indices)
    if len(order) > 1:
        # The dimension that loses most comes first: later copies are smaller.
        order.sort(key=lambda dim: len(indices[dim]) / old.shape[dim])
    for dim in order:
        new = new.index_select(dim, indices[dim].to(old.device))
    if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last):
        new = new.contiguous(memory_format=torch.channels_last)
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new
