"""Units, single weights, bits and ranks that are kept, and by which recipe: in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from autoprune.errors import InputError, PolicyError, suggestion
from autoprune.graph.group import GroupTable
from autoprune.graph.layer import Layer
from autoprune.policy import (
    BITS,
    UNTOUCHED,
    WHOLE_NUMBERS,
    LayerDecision,
    Policy,
    Recipe,
    Repair,
    Rounding,
)
from autoprune.space import Choice, Integer, SearchSpace, Value, Values

from .layerwise import Layerwise

_ENDS = ("first", "last")
_Entry = TypeVar("_Entry")


class Mixed(SearchSpace):
    """Units per group as in `layerwise`, and for every layer its bits and its rank.

    A layer's parameters are `NAME:bits`, `NAME:activation_bits`, `NAME:rank` and `NAME:weights`,
    indices into ascending lists; what stands in the recipe has options by name,
    `recipe:criterion` and so on. Some decisions take effect only together with others: a rank
    where two smaller layers are cheaper than the one, a rounding where kernels are rounded, a
    layer's bits while its block is there. Policies that differ in nothing else are one network,
    and one trial.

    Args:
        granularity: What leaves together; whole channels.
        keep_ratio: Lowest and highest share of a group's units that may be kept.
        round_to: Counts are multiples of this; `auto` is measured in the pre-flight.
        include: Patterns of group names, as in `layer*.conv1`; none means all groups.
        exclude: Patterns of group names that stay whole; stronger than `include`.
        depth: Whether whole blocks may be left out.
        bits: Numbers of bits that the kernels of a layer may have: 2 to 8, 16, 32.
        activation_bits: The same for what layers read. By default 8 where the kernels have 8
            or fewer, else as many as those.
        protect: Patterns of layers that keep the most bits and their full rank; `first` and
            `last` are the ends of the network.
        rank: Shares of a layer's full rank, for linear layers and 1×1 convolutions.
        weights: What may stay of a layer's weights: shares of them, each weight by itself;
            `2:4` and the like, so many of every so many; or `4x1@0.5`, a share of blocks. Of a
            layer with a lower rank all stay.
        criterion: What ranks the units of a group; of several, one is chosen per policy.
        repair: Repairs to choose from; none means the rung's.
        rounding: Roundings to choose from; none means the rung's.
        recovery: Recoveries to choose from, by name, with their own options; none means the
            rung's.

    Raises:
        InputError: An option out of bounds, a pattern that matches nothing, or nothing to
            decide.
    """

    def __init__(
        self,
        groups: GroupTable,
        *,
        granularity: Literal["channel"] = "channel",
        keep_ratio: tuple[float, float] = (0.1, 1.0),
        round_to: int | Literal["auto"] = 1,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        depth: bool = False,
        bits: tuple[int, ...] = (4, 8, 32),
        activation_bits: tuple[int, ...] | None = None,
        protect: tuple[str, ...] = (),
        rank: tuple[float, ...] = (1.0,),
        weights: tuple[float | str, ...] = (1.0,),
        criterion: str | tuple[str, ...] = "l1",
        repair: tuple[Repair, ...] = (),
        rounding: tuple[Rounding, ...] = (),
        recovery: tuple[str, ...] = (),
    ) -> None:
        self._groups = groups
        self._units = Layerwise(
            groups,
            keep_ratio=keep_ratio,
            round_to=round_to,
            include=include,
            exclude=exclude,
            depth=depth,
        )
        self._layers = _all_axes(groups, _Lists(bits, activation_bits, rank, weights), protect)
        criteria = (criterion,) if isinstance(criterion, str) else criterion
        recipe = {"criterion": criteria, "repair": repair}
        self._recipe = recipe | {"rounding": rounding, "recovery": recovery}
        self.parameters = (
            *self._units.parameters,
            *(axis for each in self._layers for axis in each.parameters),
            *(Choice(f"recipe:{name}", x) for name, x in self._recipe.items() if len(x) > 1),
        )

    def decode(self, values: Values) -> Policy:
        """Return the policy of these units, bits, ranks and recipe."""
        policy = self._units.decode(values)
        layers = {each.name: each.decision(values) for each in self._layers}
        changed = {name: each for name, each in layers.items() if each != UNTOUCHED}
        recipe = Recipe(
            **{  # type: ignore[arg-type]  # the options are those of its fields
                name: values.get(f"recipe:{name}", options[0])
                for name, options in self._recipe.items()
                if options
            }
        )
        return Policy(policy.decisions, recipe, policy.dropped, changed)

    def encode(self, policy: Policy) -> Values:
        """Return the values that decode to `policy`, which may be in canonical form.

        What the canonical form leaves out stands at the first option, or the full rank. Raises
        `PolicyError` where units, bits, ranks or recipe are none of this space.
        """
        values = {**self._units.encode(replace(policy, recipe=Recipe(), layers={}))}
        self._groups.check_layers(policy)
        axes = {each.name: each for each in self._layers}
        strangers = policy.layers.keys() - axes.keys()
        if strangers:
            raise PolicyError(f"the space decides nothing about layers {sorted(strangers)}")
        units = self._groups.units(policy)
        gone = self._groups.gone_layers(policy)
        for name, each in axes.items():
            values |= each.values(policy.layer(name), units, is_gone=name in gone)
        return values | self._recipe_values(policy)

    def _recipe_values(self, policy: Policy) -> dict[str, Value]:
        canonical = policy.with_recipe_in_use().recipe
        values: dict[str, Value] = {}
        for name, options in self._recipe.items():
            given = getattr(policy.recipe, name)
            is_used = getattr(canonical, name) is not None
            allowed = options or (None,)
            if given not in allowed and (given is not None or is_used):
                raise PolicyError(f"{name} is {given!r} in the policy; allowed: {allowed}")
            if len(options) > 1:
                values[f"recipe:{name}"] = options[0] if given is None else given
        return values

    def nearest(self, policy: Policy) -> Values:
        """Return what keeps most nearly the same units, and layers the nearest bits and rank."""
        values = {**self._units.nearest(policy)}
        for each in self._layers:
            values |= each.nearest(policy.layer(each.name))
        for name, options in self._recipe.items():
            if len(options) > 1:
                given = getattr(policy.recipe, name)
                values[f"recipe:{name}"] = given if given in options else options[0]
        return values


@dataclass(frozen=True)
class _Lists:
    """What layers may be given, as the job says it."""

    bits: tuple[int, ...]
    activation_bits: tuple[int, ...] | None
    rank: tuple[float, ...]
    weights: tuple[float | str, ...]

    @property
    def kept(self) -> list[tuple[float, str | None]]:
        """What may stay of a layer's weights, ascending: a share, and a pattern or None.

        Raises `InputError` for what is neither a share nor a pattern.
        """
        if not self.weights:
            raise InputError("weights must name what may stay, such as [0.5, 1.0, 2:4]")
        return sorted({_kept(each) for each in self.weights}, key=lambda x: (x[0], x[1] or ""))

    def __post_init__(self) -> None:
        for name, numbers in (("bits", self.bits), ("activation_bits", self.activation_bits)):
            if numbers is not None and (not numbers or not set(numbers) <= set(BITS)):
                allowed = ", ".join(map(str, BITS))
                raise InputError(f"{name} must be some of {allowed}; given: {list(numbers)}")
        if not self.rank or not all(0.0 < share <= 1.0 for share in self.rank):
            raise InputError(
                f"rank must be shares of the full rank in (0, 1], given: {list(self.rank)}"
            )


class _LayerAxes:
    """The parameters of one layer: ascending lists, each with an index unless it has one entry."""

    def __init__(self, groups: GroupTable, layer: Layer, lists: _Lists, is_protected: bool) -> None:
        self.name = layer.name
        self._layer = layer
        self._bits = sorted({max(lists.bits)} if is_protected else set(lists.bits))
        self._reads: list[int] | None = [32]
        if layer.reads:
            given = lists.activation_bits
            self._reads = None if given is None or is_protected else sorted(set(given))
        self._ranks: list[int | None] = [None]
        if layer.inputs is not None and not is_protected:
            self._ranks = _ranks(groups, layer, lists.rank)
        self._weights = [x for x in lists.kept if layer.reads or x[1] is None] or [(1.0, None)]
        if is_protected:
            self._weights = self._weights[-1:]
        axes: dict[str, Sequence[object]] = {
            "bits": self._bits,
            "activation_bits": self._reads or [],
            "rank": self._ranks,
            "weights": self._weights,
        }
        self._axes = {f"{self.name}:{x}": each for x, each in axes.items() if len(each) > 1}
        self.parameters = tuple(
            Integer(x, 0, len(each) - 1, kind=x.rpartition(":")[2])
            for x, each in self._axes.items()
        )

    def decision(self, values: Values) -> LayerDecision:
        """Return what the values decide about this layer."""
        bits = self._chosen(values, "bits", self._bits)
        reads = self._following(bits)
        if self._reads is not None:
            reads = self._chosen(values, "activation_bits", self._reads)
        rank = self._chosen(values, "rank", self._ranks)
        return LayerDecision(bits, reads, rank, *self._chosen(values, "weights", self._weights))

    def values(
        self, decision: LayerDecision, units: Mapping[str, int], *, is_gone: bool
    ) -> dict[str, Value]:
        """Return the values of a decision; raises `PolicyError` where there are none.

        `units` are the kept units of the network. What has no effect, since the layer
        `is_gone` or for another reason, need not be of this space.
        """
        bits, reads = decision.weight_bits, decision.activation_bits
        found = {"bits": self._index("bits", self._bits, bits, is_gone)}
        if self._reads is not None:
            is_idle = is_gone or bits > WHOLE_NUMBERS
            found["activation_bits"] = self._index("activation_bits", self._reads, reads, is_idle)
        elif reads != self._following(bits) and not is_gone:
            raise PolicyError(
                f"layer {self.name!r} reads {reads} bits; in this space as many as follow from "
                f"its kernels, {self._following(bits)}; give activation_bits"
            )
        found["rank"] = self._rank_index(decision.rank, units, is_gone)
        found["weights"] = self._weights_index(decision, is_gone)
        return {name: found[name.rpartition(":")[2]] for name in self._axes}

    def nearest(self, decision: LayerDecision) -> dict[str, Value]:
        """Return the values nearest to a decision."""
        found = {
            "bits": _nearest(self._bits, decision.weight_bits),
            "activation_bits": _nearest(self._reads or [32], decision.activation_bits),
            "rank": len(self._ranks) - 1,
            "weights": _nearest([x for x, _ in self._weights], decision.keep_ratio),
        }
        if decision.rank is not None:
            found["rank"] = _nearest([each or 2**30 for each in self._ranks], decision.rank)
        return {name: found[name.rpartition(":")[2]] for name in self._axes}

    def _following(self, bits: int) -> int:
        return 32 if not self._layer.reads else max(WHOLE_NUMBERS, bits)

    def _chosen(self, values: Values, axis: str, entries: Sequence[_Entry]) -> _Entry:
        name = f"{self.name}:{axis}"
        return entries[int(values[name])] if name in self._axes else entries[0]

    def _index(self, axis: str, entries: Sequence[int], wanted: int, is_idle: bool) -> int:
        if wanted in entries:
            return entries.index(wanted)
        if is_idle:
            return 0
        allowed = ", ".join(map(str, entries))
        raise PolicyError(f"layer {self.name!r} cannot have {wanted} {axis}; allowed: {allowed}")

    def _weights_index(self, decision: LayerDecision, is_gone: bool) -> int:
        wanted = decision.keep_ratio, decision.pattern
        if wanted in self._weights:
            return self._weights.index(wanted)
        if is_gone or decision.rank is not None:
            return 0
        allowed = ", ".join(_told(*each) for each in self._weights)
        raise PolicyError(
            f"layer {self.name!r} cannot keep {_told(*wanted)} of its weights; allowed: {allowed}"
        )

    def _rank_index(self, rank: int | None, units: Mapping[str, int], is_gone: bool) -> int:
        if rank in self._ranks:
            return self._ranks.index(rank)
        for index, each in enumerate(self._ranks):
            if is_gone or (rank is None and each and not self._layer.saves(each, units)):
                return index
        allowed = ", ".join("full" if each is None else str(each) for each in self._ranks)
        raise PolicyError(f"layer {self.name!r} cannot have rank {rank}; allowed: {allowed}")


def _all_axes(groups: GroupTable, lists: _Lists, protect: Sequence[str]) -> list[_LayerAxes]:
    """Return the axes of every layer; raises `InputError` where none can be quantised."""
    layers = [each for each in groups.layers if each.reason is None]
    if not layers:
        raise InputError("no layer of this network can be quantised; use space: layerwise")
    fixed = _protected(layers, protect)
    return [_LayerAxes(groups, each, lists, each.name in fixed) for each in layers]


def _ranks(groups: GroupTable, layer: Layer, shares: Sequence[float]) -> list[int | None]:
    """Return the ranks of a layer for shares of its full one, ascending; None is the full one."""
    whole = groups.units(Policy())
    assert layer.inputs is not None
    full = min(layer.width(whole), layer.inputs.length(whole))
    ranks = {max(1, round(share * full)) for share in shares if share < 1.0} - {full}
    is_whole = 1.0 in shares or not ranks
    return [*sorted(ranks), *([None] if is_whole else [])]


def _kept(entry: float | str) -> tuple[float, str | None]:
    """Return the share and the pattern that an entry of `weights` stands for."""
    share, pattern = entry, None
    if isinstance(entry, str):
        pattern, _, text = entry.partition("@")
        share = _number(text) if text else 1.0
    try:
        decision = LayerDecision(keep_ratio=float(share), pattern=pattern)
    except PolicyError as error:
        raise InputError(f"weights: {error}") from error
    if pattern is not None and decision.pattern is None:
        raise InputError(f"weights: give the share of blocks that stay, as in '{pattern}@0.5'")
    return decision.keep_ratio, decision.pattern


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # no share: told with those that are out of bounds


def _told(share: float, pattern: str | None) -> str:
    return f"{share:g}" if pattern is None else f"{pattern}@{share:g}"


def _nearest(entries: Sequence[float], wanted: float) -> int:
    """Return the index of the entry nearest to a number by their ratio, of two the larger."""
    distances = [max(each, wanted) / min(each, wanted) for each in entries]
    return max(range(len(entries)), key=lambda index: (-distances[index], index))


def _protected(layers: Sequence[Layer], patterns: Sequence[str]) -> set[str]:
    """Return the names of the layers that patterns name; `first` and `last` are the ends."""
    names = [each.name for each in layers]
    found = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if pattern in _ENDS and not matched:
            matched = {names[0] if pattern == "first" else names[-1]}
        if not matched:
            hint = suggestion(pattern, [*_ENDS, *names])
            raise InputError(f"protect pattern {pattern!r} matches no layer; {hint}")
        found |= matched
    return found
