"""The units that leave a network, while they are still there.

removal = Removal(plan, policy)
removal.masks(0.5)        # parameter → what stays when half of what leaves has left
removal.carve(network)    # the trained network without them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.policy import Decision, Policy
from autoprune.surgery.plan import Plan, Scores


@dataclass(frozen=True)
class Removal:
    """What a policy removes from the dense network of a plan, by the policy's criterion.

    `scores` are those that the plan was made with.
    """

    plan: Plan
    policy: Policy
    scores: Mapping[str, Scores]

    def masks(self, share: float = 1.0) -> dict[str, Tensor]:
        """Return what stays of parameters when `share` of the units of every group has left.

        Bool in the shape of each parameter of the dense network that loses any; those that
        score least leave first. Blocks that the policy drops are there until they are carved.
        """
        decisions = {
            name: Decision(1.0 - share * (1.0 - each.keep_ratio))
            for name, each in self.policy.decisions.items()
        }
        known = dict(self.plan.model.named_parameters(remove_duplicate=False))
        kept = self.plan.kept_entries(
            replace(self.policy, decisions=decisions, dropped=frozenset())
        )
        masks: dict[str, Tensor] = {}
        for (name, dim), entries in kept.items():
            if name in known:
                along = [1] * known[name].dim()
                along[dim] = -1
                stays = torch.from_numpy(np.asarray(entries)).to(known[name].device).view(along)
                masks[name] = (
                    masks.get(name, torch.ones_like(known[name], dtype=torch.bool)) & stays
                )
        return masks

    def carve(self, network: nn.Module) -> nn.Module:
        """Return a network of the dense one's form without what leaves."""
        return Plan(network, self.plan.groups, self.scores).carve(self.policy)
