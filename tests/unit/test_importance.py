"""Which decisions mattered: what is made to matter is found, and nothing is said of too little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoprune.policy import Policy
from autoprune.report.html import render
from autoprune.report.importance import FEWEST, importances, rows_of
from autoprune.run import Run
from autoprune.store import entries
from autoprune.trial import Evaluation, Measurement
from tests.made_up_run import GRAPH, PROBLEM, job, stored

GROUPS = [each.name for each in PROBLEM.groups.prunable]
Law = Callable[[dict[str, float], str], float]


def searched(directory: Path, law: Law, count: int = 60) -> Run:
    """Return a run over ratios and two criteria, whose error follows `law`."""
    rng = np.random.default_rng(1)
    made = [entries.opened()]
    for number in range(count):
        ratios = {name: float(rng.uniform(0.15, 1.0)) for name in GROUPS}
        criterion = "l1" if rng.random() < 0.5 else "taylor"
        policy = PROBLEM.groups.canonical(Policy.from_keep_ratios(ratios, criterion))
        made.append(entries.asked(number, policy, "tpe", rung=0, parent=None, batch=0))
        macs = float(GRAPH.costs.costs(policy).macs)
        measured = {"error": Measurement(law(ratios, criterion)), "macs": Measurement(macs)}
        made.append(entries.completed(number, Evaluation(measured), attempt=1))
    space = {"name": "mixed", "criterion": ["l1", "taylor"], "bits": [32]}
    return stored(directory, {**job(), "space": space}, made)


def test_the_decision_that_makes_the_difference_is_found(tmp_path: Path) -> None:
    found = importances(searched(tmp_path, lambda ratios, _: 1.0 - ratios[GROUPS[1]]))
    assert max(found["error"], key=lambda name: found["error"][name]) == GROUPS[1]
    assert found["error"][GROUPS[1]] > 0.9
    assert sum(found["error"].values()) == pytest.approx(1.0)
    assert found["error"].keys() == {*GROUPS, "recipe:criterion"}
    # The cost does not depend on which units leave.
    assert found["macs"]["recipe:criterion"] < 0.02


def test_a_recipe_is_a_decision_like_any_other(tmp_path: Path) -> None:
    run = searched(tmp_path, lambda ratios, which: (which == "l1") + 0.1 * ratios[GROUPS[0]])
    found = importances(run)
    assert found["error"]["recipe:criterion"] > 0.9
    assert found == importances(run)
    rows = rows_of(found)
    assert rows[0].decision in ("recipe:criterion", *GROUPS)
    shown = {row.decision: row.shares for row in rows}
    assert shown["recipe:criterion"] == {
        goal: shares["recipe:criterion"] for goal, shares in found.items()
    }
    assert "Which decisions mattered" in render(run)
    assert "recipe:criterion" in render(run)


def test_what_never_changed_is_left_out(tmp_path: Path) -> None:
    assert importances(searched(tmp_path, lambda *_: 0.25)).keys() == {"macs"}


def test_of_few_trials_nothing_is_said(tmp_path: Path) -> None:
    run = searched(tmp_path, lambda ratios, _: ratios[GROUPS[0]], count=FEWEST - 1)
    assert importances(run) == {}
    assert "Which decisions mattered" not in render(run)


def test_a_space_that_is_not_here_says_nothing(tmp_path: Path) -> None:
    spec = {**job(), "space": "elsewhere.spaces:Mine"}
    assert importances(stored(tmp_path, spec, [entries.opened()])) == {}


def test_many_groups_are_cut_to_those_that_matter_and_recipes_stay() -> None:
    shares = {f"g{number}": number / 100 for number in range(20)} | {"recipe:repair": 0.0}
    rows = rows_of({"error": shares})
    assert [row.decision for row in rows] == [*(f"g{x}" for x in range(19, 7, -1)), "recipe:repair"]
