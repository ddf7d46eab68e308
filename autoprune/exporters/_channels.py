"""Policies as tools see them that prune output channels: tied layers, ratios, and what is none.

tied = tied_layers(candidate, "NNI", "Use --to torch", is_known)
# [Tied("stem", ("stem", "block.conv2"), 32, 19), ...], or an ExportError that names all else
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from autoprune.contracts.exporter import Candidate, Cut, cut_of
from autoprune.errors import ExportError
from autoprune.exporters._carving import works_without
from autoprune.graph.group import STORED, PrunableGroup, Slice

if TYPE_CHECKING:
    from torch import nn

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Tied:
    """Layers that lose the same output channels: `kept` of `units` stay in each of them."""

    group: str
    layers: tuple[str, ...]
    units: int
    kept: int

    @property
    def removed(self) -> int:
        """How many channels leave."""
        return self.units - self.kept


def units_alone(candidate: Candidate, tool: str, instead: str) -> Cut:
    """Return how a candidate was cut.

    Raises `ExportError`, which says `instead`, where blocks leave, where layers get bits or
    ranks or lose single weights, and where nothing leaves at all.
    """
    cut = cut_of(candidate)
    objections = [f"block {name!r} is left out" for name in sorted(cut.policy.dropped)]
    for name, layer in cut.policy.layers.items():
        if layer.is_quantised:
            bits = f"{layer.weight_bits}-bit kernels and {layer.activation_bits}-bit inputs"
            objections.append(f"layer {name!r} has {bits}")
        if layer.rank is not None:
            objections.append(f"layer {name!r} has rank {layer.rank}")
        if layer.is_sparse:
            objections.append(f"layer {name!r} keeps some of its weights ({layer.kept})")
    if objections:
        refuse(tool, objections, instead)
    if not cut.policy.decisions:
        raise ExportError(f"this policy removes no unit, so there is nothing for {tool} to do")
    return cut


def refuse(tool: str, objections: list[str], instead: str) -> NoReturn:
    """Raise the `ExportError` that names what a tool cannot express, and what to use instead."""
    shown = "; ".join(objections[:_SHOWN])
    more = len(objections) - _SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    raise ExportError(f"{tool} cannot express this policy: {shown}{rest}. {instead}")


def tied_layers(
    candidate: Candidate, tool: str, instead: str, is_known: Callable[[nn.Module], bool]
) -> list[Tied]:
    """Return the layers of every group that loses units.

    Raises `ExportError` of `units_alone`, and one that names all groups whose units are not
    exactly the output channels of layers `is_known` to the tool.
    """
    cut = units_alone(candidate, tool, instead)
    counts = cut.groups.kept_units(cut.policy)
    found: list[Tied] = []
    objections: list[str] = []
    for group in (each for each in cut.groups if each.name in cut.policy.decisions):
        objection = _objection(group, candidate, is_known)
        if objection is not None:
            objections.append(f"group {group.name!r}: {objection}")
            continue
        makers = (each.module for each in group.slices if each.role == "out")
        layers = tuple(dict.fromkeys(makers))
        found.append(Tied(group.name, layers, group.units, counts[group.name]))
    if objections:
        refuse(tool, objections, instead)
    return found


def ratio_for(units: int, removed: int, rule: Callable[[int, float], int]) -> float:
    """Return a short decimal share of `units` that a tool takes for exactly `removed` of them.

    `rule` is the tool's own rounding: how many of so many units leave at a ratio.
    """
    for digits in range(2, 17):
        # The exact share first; a float just below it may lose a unit, one well inside cannot.
        for part in (removed, removed + 0.25, removed - 0.25):
            ratio = round(part / units, digits)
            if rule(units, ratio) == removed:
                return ratio
    raise ExportError(f"no ratio takes {removed} of {units} units")


def _objection(
    group: PrunableGroup, candidate: Candidate, is_known: Callable[[nn.Module], bool]
) -> str | None:
    """Say why the units of a group are no channels that a tool can remove, or None."""
    dense = cut_of(candidate).dense
    for each in group.slices:
        if each.role == "out" and not _is_channels(each):
            return f"they are not the output channels of {each.tensor}, one each"
    for name in group.layers:
        layer = dense.get_submodule(name)
        if not is_known(layer):
            groups = getattr(layer, "groups", 1)
            kind = type(layer).__name__ + (f" in {groups} groups" if groups != 1 else "")
            return f"they are in {repr(name) if name else 'the network itself'}, a {kind}"
    if any(each.role not in (*STORED, "size") for each in group.slices):
        return "a module without parameters runs at their full number"
    own = [
        each
        for each in group.slices
        if each.role == "size" and not is_known(dense.get_submodule(each.module))
    ]
    if own and not _works_without(candidate, own):
        numbers = ", ".join(dict.fromkeys(each.tensor.partition("#")[0] for each in own))
        return f"modules remember their number, which other tools do not correct ({numbers})"
    return None


def _works_without(candidate: Candidate, numbers: Iterable[Slice]) -> bool:
    places = {(each.tensor, each.dim) for each in numbers}
    return works_without(cut_of(candidate), candidate.example[:2], places)


def _is_channels(each: Slice) -> bool:
    """Say whether units are, one by one, what a layer's kernel or bias gives."""
    return each.is_identity and each.dim == 0 and each.tensor.endswith((".weight", ".bias"))
