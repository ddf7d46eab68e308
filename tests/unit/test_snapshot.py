"""Snapshots come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.errors import StoreError
from autoprune.store.snapshot import pack, unpack

STATE = {
    "rng": np.random.default_rng(3).bit_generator.state,
    "nested": [{"weights": np.arange(6, dtype=np.float32).reshape(2, 3)}, None, True, "ä", 0.1],
    "empty": np.empty((0, 4)),
    "words": np.array(["a", "bc"]),
}


def test_states_come_back_as_they_were() -> None:
    state = unpack(pack(STATE))
    assert state["rng"] == STATE["rng"]
    weights = state["nested"][0]["weights"]
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.arange(6).reshape(2, 3))
    assert state["nested"][1:] == [None, True, "ä", 0.1]
    assert state["empty"].shape == (0, 4)
    assert state["words"].tolist() == ["a", "bc"]


def test_equal_states_are_equal_bytes() -> None:
    assert pack(STATE) == pack(dict(STATE))


@pytest.mark.parametrize(
    "state",
    [{"x": float("nan")}, {"x": object()}, {"x": np.array([object()])}, {"array": 1}],
)
def test_what_cannot_be_stored_is_refused(state: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        pack(state)


def test_damage_is_noticed_at_every_byte_looked_at() -> None:
    body = pack(STATE)
    for place in range(0, len(body), 97):
        damaged = bytearray(body)
        damaged[place] ^= 1
        with pytest.raises(StoreError):
            unpack(bytes(damaged))
    for length in (0, 10, len(body) // 2, len(body) - 1):
        with pytest.raises(StoreError):
            unpack(body[:length])
