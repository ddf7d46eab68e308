"""Random networks: whatever is found to be prunable is carved exactly, at the table's cost.

Networks are in double precision, so that exact means exact: a tolerance of 1e-9 leaves no
room for a wrong index map whose effect is faint.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoprune.tracing.discovery import discover
from tests.carving import assert_exact, column, entries
from tests.random_networks import PLAIN, STEP_LISTS, Step, built

FAINT: tuple[list[Step], bool] = (
    [("gated", 2), ("own attention", 2, 1, "chunked"), ("sigmoid",), ("sigmoid",), ("gated", 2)],
    False,
)
"""Behind two sigmoids a number of heads that follows the wrong units hardly shows."""

EVEN: tuple[list[Step], bool] = ([("padded", 1, 1), ("relu",), ("padded", 1, 1)], False)


@given(STEP_LISTS, st.booleans())
@example(*FAINT)
@example(*EVEN)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_random_networks_are_carved_exactly(steps: list[Step], flat: bool) -> None:
    assert_exact(*built(steps, flat))


@given(st.lists(PLAIN, max_size=6), st.booleans())
@settings(deadline=None, max_examples=30, derandomize=True)
def test_every_layer_of_a_chain_but_the_last_is_prunable(steps: list[Step], flat: bool) -> None:
    network, image = built(steps, flat)
    groups = assert_exact(network, image).groups
    layers = {"stem": 4} | {
        f"body.{place}.layer": step[1] for place, step in enumerate(steps) if step[0] == "conv"
    }
    assert [group.name for group in groups] == [*layers, "out"]
    assert groups["out"].reason == "it makes the network's output"
    for name, units in layers.items():
        assert groups[name].units == units
        assert groups[name].reason == ("it has a single unit" if units == 1 else None)
        if units > 1:
            assert entries(groups, name, f"{name}.weight", 0) == column(units)


@given(STEP_LISTS, st.booleans())
@settings(deadline=None, max_examples=30, derandomize=True)
def test_discovery_gives_the_same_groups_again(steps: list[Step], flat: bool) -> None:
    network, image = built(steps, flat)
    assert discover(network, image).to_json() == discover(network, image).to_json()
