"""The forms of a group that are tried in turn: which remembered numbers follow its units.

Discovery lists every attribute that has the value of a size as a candidate. The form with
the likeliest candidates comes first, then the one without any, then those that differ
from the first in one place, in two, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import combinations, islice, product

from autoprune.graph.group import STORED, PrunableGroup, Slice

PASSING = frozenset({"enter", "leave"})
_LIMIT = 64

Option = tuple[Slice, ...]
"""Slices that stand or fall together; none where the candidate is left out."""


def variants(
    group: PrunableGroup,
    bridged: Collection[str] = frozenset(),
    readings: Mapping[str, str] | None = None,
) -> Iterator[PrunableGroup]:
    """Yield the group with one choice of its candidates after the other.

    Modules named in `bridged` run at their full width; others that could come in last,
    when all else has failed. `readings` says which reading of a number other groups have
    chosen already.
    """
    passages = [each for each in group.slices if each.role in PASSING]
    fixed = [each for each in passages if passed_module(each) in bridged]
    plain = (*(each for each in group.slices if each.role in STORED), *fixed)
    bridges = tuple(each for each in passages if passed_module(each) not in bridged)
    kinds = _kinds(group, readings or {})
    first = [options[0] for options in kinds]
    default = group.with_slices((*plain, *(each for option in first for each in option)))
    for chosen in islice(_choices(kinds), _LIMIT):
        yield group.with_slices((*plain, *chosen))
    if bridges:
        yield group.with_slices((*plain, *bridges))
        yield group.with_slices((*default.slices, *bridges))
    # Attention that scales its scores by the width that it meets.
    yield replace(default, tempered=True)


def number_of(size: Slice) -> str:
    """Return the name of the number that a slice reads, with its place in a tuple."""
    return f"{size.tensor.partition('#')[0]}[{size.dim}]"


def passed_module(passage: Slice) -> str:
    """Return the name of the module that a slice enters or leaves."""
    return passage.tensor.partition(":")[0]


def _choices(kinds: list[list[Option]]) -> Iterator[Option]:
    first = [options[0] for options in kinds]
    yield tuple(each for option in first for each in option)
    if kinds:
        yield ()
    for count in range(1, len(kinds) + 1):
        for places in combinations(range(len(kinds)), count):
            for others in product(*(kinds[place][1:] for place in places)):
                picked = dict(enumerate(first)) | dict(zip(places, others, strict=True))
                yield tuple(each for option in picked.values() for each in option)


def _kinds(group: PrunableGroup, readings: Mapping[str, str]) -> list[list[Option]]:
    """Return the options of every kind of candidate, the likeliest first, none last.

    Repeated blocks are of one kind: their candidates stand or fall together.
    """
    found: dict[str, dict[str, list[Slice]]] = {}
    for each in group.slices:
        if each.role == "size" and readings.get(number_of(each), each.tensor) == each.tensor:
            kind = re.sub(r"\d+", "#", number_of(each))
            rank = each.tensor.partition("#")[2]
            found.setdefault(kind, {}).setdefault(rank, []).append(each)
    return [[*(tuple(option) for option in ranks.values()), ()] for ranks in found.values()]
