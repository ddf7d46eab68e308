"""What the engine knows about a traced network, as plain data.

It is found once per job (`autoprune.tracing.discovery`), stored with the job, and sent to
every worker, so that no worker traces again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.errors import RunError
from autoprune.graph.cost import CostTable
from autoprune.graph.form import Form
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy

FORMAT = 5
"""Version of the JSON form: 4 did not know layers."""


@dataclass(frozen=True)
class NetworkGraph:
    """Groups, costs, and the (convolution, batch norm) pairs that fold for inference."""

    groups: GroupTable
    costs: CostTable
    foldable: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal graph."""
        return {
            "format": FORMAT,
            "groups": self.groups.to_json(),
            "costs": self.costs.to_json(),
            "foldable": [list(pair) for pair in self.foldable],
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> NetworkGraph:
        """Rebuild a graph from `to_json`; `RunError` for that of another version."""
        if body.get("format") != FORMAT:
            raise RunError(
                f"the network's groups were written by another version of autoprune (format "
                f"{body.get('format', 1)}, this one reads {FORMAT}); start a new run"
            )
        groups = GroupTable.from_json(body["groups"])
        costs = CostTable.from_json(body["costs"], groups)
        return cls(groups, costs, tuple((conv, norm) for conv, norm in body["foldable"]))

    def form(self, policy: Policy) -> Form:
        """Return the network of a policy in numbers; raises `PolicyError` for another network's."""
        groups = self.groups
        kept = groups.kept_units(policy) | dict.fromkeys(groups.vanishing(policy), 0)
        units = {each.name: (kept[each.name], each.units) for each in groups.prunable}
        return Form(units, groups.gone_layers(policy), self.costs.costs(policy))

    def with_groups(self, groups: GroupTable) -> NetworkGraph:
        """Return the same network with other groups (some newly frozen)."""
        return NetworkGraph(groups, CostTable(self.costs.rows, groups), self.foldable)
