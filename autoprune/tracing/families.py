"""From variables to groups: units that play the same part form one prunable group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autoprune.graph.extent import Extent
from autoprune.graph.group import STORED, PrunableGroup, Role, Slice
from autoprune.tracing.ties import Ids, Ties


@dataclass(frozen=True)
class Slot:
    """One labelled dimension of a tensor, or a number that counts its entries."""

    tensor: str
    dim: int
    role: Role
    ids: Ids


class Families:
    """Free variables with equal parts in every stored tensor, each family one prunable group.

    `kinds` names families: variables seen as heads or as blocks of channels. Units that
    lie in a range of `cuts` are of another family than those outside.
    """

    def __init__(
        self,
        ties: Ties,
        slots: Iterable[Slot],
        kinds: Iterable[tuple[Ids, str]],
        cuts: Iterable[Ids] = (),
    ) -> None:
        self._ties = ties
        self.slots = list(slots)
        self._cuts = list(cuts)
        self._factors = {
            root: ties.factors(root)
            for slot in self.slots
            for root in np.unique(ties.roots(slot.ids)).tolist()
        }
        self._kinds = {
            factor: kind
            for ids, kind in kinds
            for root in np.unique(ties.roots(ids)).tolist()
            for factor in ties.factors(root)
        }
        self._members = self._families()
        self._place = {
            variable: (number, unit)
            for number, members in enumerate(self._members)
            for unit, variable in enumerate(members)
        }
        # Per slot and family: unit and position of every entry.
        self._occurrences = [self._entries(slot) for slot in self.slots]
        self._grids = [self._combinations(slot.ids) for slot in self.slots]
        self.names = self._named()

    def _families(self) -> list[list[int]]:
        """Gather variables by how often each occurs in every slot."""
        counts: dict[int, dict[int, int]] = defaultdict(dict)
        for number, slot in enumerate(self.slots):
            if slot.role not in STORED:
                continue
            roots, times = np.unique(self._ties.roots(slot.ids), return_counts=True)
            for root, count in zip(roots.tolist(), times.tolist(), strict=True):
                for factor in self._factors[root]:
                    counts[factor][number] = counts[factor].get(number, 0) + count
        for number, ids in enumerate(self._cuts, start=len(self.slots)):
            for root in np.unique(self._ties.roots(ids)).tolist():
                for factor in self._ties.factors(root):
                    if factor in counts:
                        counts[factor][number] = 1
        families: dict[tuple[str | None, tuple[tuple[int, int], ...]], list[int]]
        families = defaultdict(list)
        for variable in self._in_order(counts):
            parts = tuple(sorted(counts[variable].items()))
            families[self._kinds.get(variable), parts].append(variable)
        return list(families.values())

    def _in_order(self, counts: Iterable[int]) -> Iterator[int]:
        """Yield variables in the order of their first entry."""
        left = set(counts)
        for slot in self.slots:
            roots, first = np.unique(self._ties.roots(slot.ids), return_index=True)
            for root in roots[np.argsort(first)].tolist():
                for factor in self._factors[root]:
                    if factor in left:
                        left.remove(factor)
                        yield factor

    def _named(self) -> list[str]:
        """Name every family after the first layer that makes it, with a suffix if needed."""
        plain = [self._first_layer(number) for number in range(len(self._members))]
        names: list[str] = []
        for number, name in enumerate(plain):
            kind = self._kinds.get(self._members[number][0])
            twins = [other for other, each in enumerate(plain) if each == name]
            if len(twins) > 1:
                kinds = [self._kinds.get(self._members[other][0]) for other in twins]
                kind = kind or ("width" if "heads" in kinds else None)
                name = f"{name}:{kind}" if kind else name
            base, copies = name, 1
            while name in names:
                copies += 1
                name = f"{base}:{copies}"
            names.append(name)
        return names

    def _first_layer(self, number: int) -> str:
        slots = self._touched(number)
        makers = [slot for slot in slots if slot.role == "out"]
        tensor = (makers or slots)[0].tensor
        return tensor.rpartition(".")[0] or tensor

    def _touched(self, number: int) -> list[Slot]:
        return [
            slot
            for slot, found in zip(self.slots, self._occurrences, strict=True)
            if number in found
        ]

    def _entries(self, slot: Slot) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, root in enumerate(self._ties.roots(slot.ids).tolist()):
            for factor in self._factors[root]:
                if factor in self._place:
                    family, unit = self._place[factor]
                    found[family].append((unit, position))
        return found

    def groups(self) -> list[PrunableGroup]:
        """Return every family as a group."""
        result = []
        for number, members in enumerate(self._members):
            slices = []
            for slot, found in zip(self.slots, self._occurrences, strict=True):
                if number in found:
                    entries = _table(found[number], len(members))
                    slices.append(Slice(slot.tensor, slot.dim, len(slot.ids), entries, slot.role))
            reason = "it has a single unit" if len(members) == 1 else self._uneven(number)
            result.append(PrunableGroup(self.names[number], len(members), tuple(slices), reason))
        return result

    def _uneven(self, number: int) -> str | None:
        """Say why the kept entries would not be a product of kept units, or None."""
        for slot, combinations in zip(self.slots, self._grids, strict=True):
            if slot.role not in STORED:
                continue
            for families, counts in combinations.items():
                if number not in families:
                    continue
                units = [len(self._members[each]) for each in families]
                is_grid = len(counts) == np.prod(units) and len(set(counts.values())) == 1
                if len(set(families)) < len(families) or not is_grid:
                    return f"its units share the entries of {slot.tensor!r} unevenly"
        return None

    def _combinations(self, ids: Ids) -> dict[tuple[int, ...], dict[tuple[int, ...], int]]:
        """Count the entries of every combination of units, per combination of families."""
        found: dict[tuple[int, ...], dict[tuple[int, ...], int]] = defaultdict(dict)
        roots, times = np.unique(self._ties.roots(ids), return_counts=True)
        for root, count in zip(roots.tolist(), times.tolist(), strict=True):
            places = sorted(
                self._place[each] for each in self._factors[root] if each in self._place
            )
            families = tuple(family for family, _ in places)
            units = tuple(unit for _, unit in places)
            found[families][units] = found[families].get(units, 0) + count
        return found

    def extent(self, ids: Ids) -> Extent:
        """Return how the length of a labelled dimension follows the kept units."""
        self._factors |= {
            root: self._ties.factors(root) for root in np.unique(self._ties.roots(ids)).tolist()
        }
        fixed, parts = 0, []
        for families, counts in self._combinations(ids).items():
            entries = sum(counts.values())
            units = int(np.prod([len(self._members[each]) for each in families], dtype=np.int64))
            if not families or entries % units:
                fixed += entries
            else:
                names = tuple(self.names[each] for each in families)
                parts.append((entries // units, names))
        return Extent(fixed, tuple(parts))


def _table(pairs: list[tuple[int, int]], units: int) -> np.ndarray:
    """Turn pairs of unit and position into shape (units, width), filled up with -1."""
    rows: list[list[int]] = [[] for _ in range(units)]
    for unit, position in pairs:
        rows[unit].append(position)
    width = max(len(row) for row in rows)
    return np.array([row + [-1] * (width - len(row)) for row in rows])
