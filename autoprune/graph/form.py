"""What a policy makes of a network, in numbers: units, costs, and which layers are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.graph.cost import Costs


@dataclass(frozen=True, slots=True)
class Form:
    """A pruned network in numbers.

    `units` are kept and all units of every prunable group, none within dropped blocks; `gone`
    are layers within those.
    """

    units: Mapping[str, tuple[int, int]]
    gone: frozenset[str]
    costs: Costs
