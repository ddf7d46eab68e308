"""One whole number per prunable group, how many of its units are kept, and one per block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

from autoprune.errors import InputError, PolicyError, suggestion
from autoprune.graph.group import GroupTable, PrunableGroup
from autoprune.policy import Policy
from autoprune.space import Choice, Integer, SearchSpace, Value, Values

# 0.55 * 100 is 55.00000000000001: a bound may be missed by rounding, never by a whole unit.
_SLACK = 1e-9
_BLOCK = ("kept", "dropped")


class Layerwise(SearchSpace):
    """Every prunable group keeps its own number of units, whatever the others keep.

    A group's parameter is the index into its ascending list of allowed counts: the
    multiples of `round_to` within the `keep_ratio` range, and the whole group where the
    range ends at 1. Groups left out of the space stay whole. With `depth`, every block that
    can be left out has a parameter `NAME:block`, which is `kept` or `dropped`.
    Policies are canonical where no block is left out.

    Args:
        keep_ratio: Lowest and highest share of a group's units that may be kept.
        round_to: Counts are multiples of this, which many kernels run faster on; `auto` is what
            the device likes best, measured in the pre-flight.
        criterion: Name of the criterion that ranks the units of a group.
        include: Patterns of group names, as in `layer*.conv1`; none means all groups.
        exclude: Patterns of group names that stay whole; stronger than `include`.
        depth: Whether whole blocks may be left out.

    Raises:
        InputError: A range or `round_to` out of bounds, a pattern that matches nothing, a
            group without any allowed count, or no group left.
    """

    def __init__(
        self,
        groups: GroupTable,
        *,
        keep_ratio: tuple[float, float] = (0.1, 1.0),
        round_to: int | Literal["auto"] = 1,
        criterion: str = "l1",
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        depth: bool = False,
    ) -> None:
        low, high = keep_ratio
        if not 0.0 < low <= high <= 1.0:
            raise InputError(
                f"keep_ratio must be [low, high] with 0 < low <= high <= 1, given: {keep_ratio!r}"
            )
        if round_to == "auto":
            raise InputError(
                "round_to: auto is measured; give the number that the pre-flight found"
            )
        if round_to < 1:
            raise InputError(f"round_to must be at least 1, given: {round_to!r}")
        self._groups = groups
        self._criterion = criterion
        chosen = _chosen(groups, include, exclude)
        self._levels = {each.name: _levels(each, low, high, round_to) for each in chosen}
        self._index = {
            name: {kept: index for index, kept in enumerate(levels)}
            for name, levels in self._levels.items()
        }
        # Names of blocks may be those of groups.
        self._blocks = {f"{x.name}:block": x.name for x in groups.droppable} if depth else {}
        self.parameters = (
            *(Integer(name, 0, len(levels) - 1) for name, levels in self._levels.items()),
            *(Choice(name, _BLOCK) for name in self._blocks),
        )

    def decode(self, values: Values) -> Policy:
        """Return the policy that keeps the indexed count of every group."""
        keep_ratios = {
            name: levels[int(values[name])] / self._groups[name].units
            for name, levels in self._levels.items()
        }
        policy = self._groups.canonical(Policy.from_keep_ratios(keep_ratios, self._criterion))
        dropped = (block for name, block in self._blocks.items() if values[name] == _BLOCK[1])
        return replace(policy, dropped=frozenset(dropped))

    def encode(self, policy: Policy) -> Values:
        """Return the index of every group's kept count.

        Raises `PolicyError` for another criterion, a group that is unknown, frozen or
        outside this space and yet reduced, a block that must stay here, and a count that is
        not one of the levels.
        """
        if policy.recipe.criterion != self._criterion:
            raise PolicyError(
                f"the space ranks by {self._criterion!r}, the policy by {policy.recipe.criterion!r}"
            )
        if policy.layers:
            raise PolicyError(
                f"the space leaves layers as they are, the policy changes {sorted(policy.layers)}"
            )
        dropped = {block.name for block in self._groups.dropped(policy)}
        if not dropped <= set(self._blocks.values()):
            raise PolicyError(f"the space leaves out no blocks, the policy {sorted(dropped)}")
        values: dict[str, Value] = {
            name: _BLOCK[block in dropped] for name, block in self._blocks.items()
        }
        gone = self._groups.vanishing(policy)
        for name, kept in self._groups.kept_units(policy).items():
            if name in self._index and name in gone and kept not in self._index[name]:
                values[name] = len(self._levels[name]) - 1  # its count has no effect
            elif name in self._index:
                values[name] = self._position(name, kept)
            elif kept < self._groups[name].units:
                raise PolicyError(f"group {name!r} is outside the space and must stay whole")
        return values

    def nearest(self, policy: Policy) -> Values:
        """Return for every group the index of the count nearest to its kept share.

        Of two counts equally near, the larger is taken.
        """
        values: dict[str, Value] = {}
        for name, levels in self._levels.items():
            wanted = policy.keep_ratio(name) * self._groups[name].units
            values[name] = min(
                range(len(levels)), key=lambda index: (abs(levels[index] - wanted), -index)
            )
        return values | {name: _BLOCK[x in policy.dropped] for name, x in self._blocks.items()}

    def _position(self, name: str, kept: int) -> int:
        index = self._index[name].get(kept)
        if index is None:
            levels = ", ".join(map(str, self._levels[name]))
            raise PolicyError(f"group {name!r} cannot keep {kept} units; allowed: {levels}")
        return index


def _levels(group: PrunableGroup, low: float, high: float, round_to: int) -> tuple[int, ...]:
    """Return the kept counts that `group` may have, ascending."""
    fewest = max(1, math.ceil(low * group.units - _SLACK))
    most = max(1, math.floor(high * group.units + _SLACK))
    first = math.ceil(fewest / round_to) * round_to
    levels = list(range(first, most + 1, round_to))
    if high == 1.0 and group.units not in levels:
        levels.append(group.units)
    if not levels:
        raise InputError(
            f"group {group.name!r} has {group.units} units, and no multiple of {round_to} lies "
            f"between {fewest} and {most}; lower round_to, widen keep_ratio, or exclude the group"
        )
    return tuple(levels)


def _chosen(
    groups: GroupTable, include: Sequence[str], exclude: Sequence[str]
) -> tuple[PrunableGroup, ...]:
    """Return the prunable groups that the patterns leave, in the order of the table."""
    names = [group.name for group in groups]
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not _matches(patterns=(pattern,), names=names):
                raise InputError(
                    f"{option} pattern {pattern!r} matches no group; {suggestion(pattern, names)}"
                )
    kept = _matches(include, names) if include else set(names)
    kept -= _matches(exclude, names)
    chosen = tuple(group for group in groups.prunable if group.name in kept)
    if not chosen:
        frozen = [f"{group.name} ({group.reason})" for group in groups if group.is_frozen]
        raise InputError(
            "the space is empty: no prunable group is left; "
            f"prunable: {', '.join(group.name for group in groups.prunable) or 'none'}; "
            f"frozen: {'; '.join(frozen) or 'none'}"
        )
    return chosen


def _matches(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
