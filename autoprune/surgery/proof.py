"""Proof that groups can be cut: cut them, run the network, compare outputs.

For each group, one unit and then half of the units are carved away. The carved network
must run, keep its output shape, and give the outputs of the dense network in which the
same units are silenced wherever they are read. A group that fails is frozen with the
reason in words; the others go on. In the end half of every group is cut at once.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from autoprune.graph.group import GroupTable, PrunableGroup
from autoprune.graph.layers import evaluation_mode
from autoprune.policy import Policy
from autoprune.surgery.plan import Plan

TOLERANCE = 1e-4
_CRITERION = "proof"


def prove(model: nn.Module, groups: GroupTable, example: Tensor) -> GroupTable:
    """Return `groups` with every group frozen that breaks the network when it is cut.

    `example` has shape (batch, ...); two samples are enough.
    """
    with evaluation_mode(model), torch.inference_mode():
        prover = _Prover(model, groups, example)
        proven = GroupTable(
            group
            if group.is_frozen or not (reason := prover.objection(group))
            else group.frozen(reason)
            for group in groups
        )
        return prover.combined(proven)


class _Prover:
    def __init__(self, model: nn.Module, groups: GroupTable, example: Tensor) -> None:
        self.model = model
        self.example = example
        self.expected: Tensor = model(example)
        # The last units leave first: scores fall with the index.
        falling = {group.name: -np.arange(group.units, dtype=float) for group in groups}
        self.plan = Plan(model, groups, {_CRITERION: falling})

    def objection(self, group: PrunableGroup) -> str | None:
        """Return why `group` cannot be cut, or None if it can."""
        for removed in dict.fromkeys((1, group.units // 2)):
            kept = group.units - removed
            policy = Policy.from_keep_ratios({group.name: kept / group.units}, _CRITERION)
            try:
                outputs = self.plan.carve(policy)(self.example)
            except Exception as error:
                return f"without {removed} of its units the network fails: {_first_line(error)}"
            if outputs.shape != self.expected.shape:
                shapes = f"{tuple(self.expected.shape)} becomes {tuple(outputs.shape)}"
                return f"it shapes the network's output: without {removed} of its units {shapes}"
            silenced = _silenced(self.model, group, np.arange(kept, group.units))(self.example)
            scale = max(1.0, float(silenced.abs().max()))
            difference = float((outputs - silenced).abs().max()) / scale
            if not difference <= TOLERANCE:
                return (
                    f"without {removed} of its units the outputs differ by {difference:.1e} "
                    "from the network in which they are silenced"
                )
        return None

    def combined(self, groups: GroupTable) -> GroupTable:
        """Freeze groups that can be cut alone but not together with the others."""
        if self._halves_run(groups.prunable):
            return groups
        accepted: list[PrunableGroup] = []
        rejected: set[str] = set()
        for group in groups.prunable:
            if self._halves_run([*accepted, group]):
                accepted.append(group)
            else:
                rejected.add(group.name)
        reason = "together with other groups it breaks the network"
        return GroupTable(
            group.frozen(reason) if group.name in rejected else group for group in groups
        )

    def _halves_run(self, groups: list[PrunableGroup] | tuple[PrunableGroup, ...]) -> bool:
        ratios = {group.name: 1 - (group.units // 2) / group.units for group in groups}
        try:
            carved = self.plan.carve(Policy.from_keep_ratios(ratios, _CRITERION))
            outputs: Tensor = carved(self.example)
        except Exception:  # whatever a broken network raises, it is broken
            return False
        return outputs.shape == self.expected.shape


def _silenced(model: nn.Module, group: PrunableGroup, units: np.ndarray) -> nn.Module:
    """Return the dense network with zero weight on every read of `units`."""
    memo: dict[int, object] = {
        id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())
    }
    for each in group.slices:
        if each.side == "in":
            weight = model.get_submodule(each.module).get_parameter("weight")
            zeroed = memo[id(weight)] if memo[id(weight)] is not weight else weight.detach().clone()
            assert isinstance(zeroed, Tensor)
            module = model.get_submodule(each.module)
            reads = torch.from_numpy(each.entries[units].reshape(-1)).to(zeroed.device)
            zeroed.index_fill_(0 if isinstance(module, _ConvTransposeNd) else 1, reads, 0)
            memo[id(weight)] = nn.Parameter(zeroed, requires_grad=False)
    twin: nn.Module = copy.deepcopy(model, memo)
    return twin


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
