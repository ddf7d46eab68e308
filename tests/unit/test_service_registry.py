"""Submitted jobs: their order, and whose turn it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.service import registry
from cluster.service.dispatcher import in_turn
from cluster.service.registry import Registry


def test_no_two_jobs_have_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages go by time. A clock that stands still or goes back changes nothing."""
    times = iter([100.0, 100.0, 99.0, 200.0])
    monkeypatch.setattr(registry, "time", SimpleNamespace(time=lambda: next(times)))
    with Registry(tmp_path / "service.sqlite") as jobs:
        made = [jobs.submit("vision", f"job{x}", f"request{x}", "{}", "")[0] for x in range(4)]
        assert [each.created for each in made] == [100.0, 100.000001, 100.000002, 200.0]
        assert [each.name for each in jobs.all()] == ["job3", "job2", "job1", "job0"]


@pytest.mark.parametrize(
    ("under_way", "order"),
    [
        ({}, ["a0", "b3", "c5", "a1", "b4", "a2"]),
        ({"a": 2}, ["b3", "c5", "b4", "a0", "a1", "a2"]),
        ({"a": 1, "b": 1, "c": 1}, ["a0", "b3", "c5", "a1", "b4", "a2"]),
    ],
)
def test_tenants_take_turns(tmp_path: Path, under_way: dict[str, int], order: list[str]) -> None:
    with Registry(tmp_path / "service.sqlite") as jobs:
        for place, tenant in enumerate("aaabbc"):
            jobs.submit(tenant, f"{tenant}{place}", "request" + str(place), "{}", "")
        waiting = jobs.all()[::-1]
        assert [each.name for each in in_turn(waiting, Counter(under_way))] == order
