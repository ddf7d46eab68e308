"""Constraints: their forms, hard and soft, and whether they can be met."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import total_violation
from autoprune.controller.promotion import ranked
from autoprune.errors import InputError
from autoprune.front import Front
from autoprune.job.constraint import Constraint
from autoprune.job.spec import Job
from autoprune.metrics import constrained
from autoprune.policy import Policy
from autoprune.preflight import inspection, preflight, require_reachable
from autoprune.trial import Evaluation, Measurement, Trial, TrialState
from autoprune.validation import validated

GOALS = (Goal("error", "share", "min", 0.9), Goal("macs", "MACs", "min", 100.0))


def job(*constraints: Any, **more: Any) -> Job:
    body = {"model": {"name": "digits_cnn"}, "data": {"name": "digits"}, **more}
    return validated({**body, "constraints": list(constraints)})


def values(error: float, macs: float) -> dict[str, Measurement]:
    return {"error": Measurement(error), "macs": Measurement(macs)}


def test_a_soft_constraint_is_recorded_apart() -> None:
    asked = job("macs <= 0.5 * dense", {"soft": "error <= dense + 0.02"})
    found = constrained(asked, Evaluation(values(0.15, 80)), values(0.1, 100))
    assert found.violations == {"macs <= 0.5 * dense": pytest.approx(0.6)}
    assert found.misses == {"error <= dense + 0.02": pytest.approx(0.25)}
    assert not found.is_feasible
    kept = constrained(asked, Evaluation(values(0.15, 40)), values(0.1, 100))
    assert kept.is_feasible
    assert kept.misses


def test_what_is_not_measured_breaks_nothing() -> None:
    found = constrained(job("error <= 0.01"), Evaluation({"macs": Measurement(9)}), values(1, 1))
    assert found.is_feasible


def test_evaluations_keep_their_misses_in_the_log() -> None:
    found = Evaluation(values(0.1, 1), {"a <= 1": 2.0}, {"b <= 1": 0.5})
    assert Evaluation.from_json(found.to_json()) == found


@pytest.mark.parametrize("bound", ["1e999", "1e999 * dense", "dense - 1e999"])
def test_bounds_are_finite(bound: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        Constraint.parse(f"macs <= {bound}")


@pytest.mark.parametrize("text", ["macs <= " + "1" * 50_000 + "x", "macs <= ." + "1" * 50_000])
def test_long_constraints_are_read_at_once(text: str) -> None:
    begun = time.perf_counter()
    with suppress(ValueError):
        Constraint.parse(text)
    assert time.perf_counter() - begun < 1.0


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.floats(-9, 9),
    st.text(max_size=3),
    st.dictionaries(st.text(max_size=3), st.floats(-9, 9), max_size=2),
)
def test_measurements_survive_the_log(
    value: float, bound: float | None, note: str, parts: dict[str, float]
) -> None:
    own = {name: Measurement(each, note=note) for name, each in parts.items()}
    measured = Measurement(value, bound, bound, note, own)
    assert Measurement.from_json(measured.to_json()) == measured


def test_evaluations_of_a_long_log_share_what_is_the_same() -> None:
    text = json.dumps(Evaluation(values(0.1, 1)).to_json())
    one, other = (Evaluation.from_json(json.loads(text)) for _ in range(2))
    assert one.misses is other.misses
    assert one.measurements["error"].parts is other.measurements["macs"].parts
    assert next(iter(one.measurements)) is next(iter(other.measurements))


def test_a_plain_measurement_is_three_numbers_in_the_log() -> None:
    assert Measurement(1.0, 0.5, 2.0).to_json() == [1.0, 0.5, 2.0]


def trial(number: int, error: float, macs: float, **misses: float) -> Trial:
    evaluation = Evaluation(values(error, macs), misses=misses)
    return Trial(number, Policy(), "x", state=TrialState.COMPLETED, evaluation=evaluation)


def test_what_misses_a_soft_constraint_stays_but_is_not_picked() -> None:
    trials = [trial(1, 0.5, 10, slow=0.1), trial(2, 0.3, 60), trial(3, 0.1, 90, slow=0.2)]
    front = Front.of(trials, GOALS)
    assert [each.number for each in front.members] == [3, 2, 1]
    assert front.knee().number == 2
    assert front.best("macs").number == 2
    assert next(each.number for each in ranked(trials, GOALS)) == 2
    assert total_violation(trials[0]) == pytest.approx(0.1)


def test_a_job_keeps_soft_constraints_in_its_own_words() -> None:
    asked = job({"soft": "macs <= 1"}, "params <= 2")
    assert asked.to_json()["constraints"] == [{"soft": "macs <= 1"}, "params <= 2"]
    assert Job.model_validate(asked.to_json()) == asked


@pytest.mark.parametrize("text", ["macs < 1", {"soft": "macs"}, {"hard": "macs <= 1"}, 7])
def test_other_forms_are_refused_with_those_that_work(text: object) -> None:
    with pytest.raises(ValueError, match=r"write METRIC <= NUMBER.*soft"):
        Constraint.parse(text)


def test_preflight_says_what_can_be_met() -> None:
    found = preflight(
        job(
            "macs <= 0.5 * dense",
            "macs <= 10",
            "error <= dense + 0.02",
            {"soft": "error <= 0.01"},
            "loss >= 0.0",
        )
    )
    body = inspection(found, 0.0)["constraints"]
    assert [each["reachable"] for each in body] == [True, False, True, None, True]
    assert [each.constraint.is_soft for each in found.reaches] == [False, False, False, True, False]
    with pytest.raises(InputError, match=r"'macs <= 10' cannot be met: the dense network has \d"):
        require_reachable(found)


def test_a_soft_constraint_that_cannot_be_met_stops_nothing() -> None:
    require_reachable(preflight(job({"soft": "macs <= 10"})))


def test_latency_is_measured_at_both_ends() -> None:
    found = preflight(job("latency_ms <= 1e-6", "latency_ms <= 1e6"))
    assert [each.is_reachable for each in found.reaches] == [False, True]
    assert all("the lowest one has" in each.reason for each in found.reaches)


@pytest.mark.parametrize(("backend", "verdict"), [("torch", False), ("torch_sparse", None)])
def test_whole_kernels_are_no_end_where_zeros_save_time(backend: str, verdict: bool | None) -> None:
    timed = {"name": "latency", "backend": backend, "precision": 0.3, "seconds": 0.05}
    space = {"name": "mixed", "weights": [0.1, 1.0]}
    asked = ("latency_ms <= 1e-6", "latency_ms <= 1e6", "macs <= 1")
    found = preflight(job(*asked, objectives=["error", timed], space=space))
    assert [each.is_reachable for each in found.reaches] == [verdict, True, False]


def test_groups_are_asked_for_where_something_compares_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.groups: equalized_odds compares groups"):
        job("equalized_odds <= 0.1")
