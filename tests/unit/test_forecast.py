"""Forecasts: what is learned, in which order, and how they bear on constraints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.objective import Objective, Predictor, Stage, Subject
from autoprune.controller.forecast import ForecastError, Forecasts
from autoprune.graph.cost import CostTable
from autoprune.job.constraint import Constraint
from autoprune.job.spec import Job
from autoprune.policy import LayerDecision, Policy
from autoprune.store.sql import SqlStore
from autoprune.testing.problem import small_problem
from autoprune.trial import Evaluation, Measurement, Trial, TrialState
from tests.searching import SmallEvaluator, small_job, small_search, small_state

PROBLEM = small_problem()


class _PerMac(Predictor):
    """Milliseconds per mac, as surveyed; every measurement is noted."""

    def __init__(self, rate: float, costs: CostTable) -> None:
        self.rate = rate
        self.costs = costs
        self.learned: list[float] = []

    def predict(self, policy: Policy) -> Measurement:
        value = self.rate * self.costs.costs(policy).macs
        return Measurement(value, 0.9 * value, 1.1 * value)

    def learn(self, policy: Policy, measured: Measurement) -> None:
        self.learned.append(measured.value)


class _Wary(_PerMac):
    """Knows nothing of what loses single weights."""

    def covers(self, policy: Policy) -> bool:
        return not policy.is_sparse

    def predict(self, policy: Policy) -> Measurement:
        assert self.covers(policy)
        return super().predict(policy)


class Slow(Objective):
    """Something dear that is proportional to macs."""

    name: ClassVar[str] = "slow_ms"
    unit: ClassVar[str] = "ms"
    stage: ClassVar[Stage] = Stage.NETWORK

    def measure(self, subject: Subject) -> Measurement:
        """Return a tenth of the macs."""
        return Measurement(subject.costs.macs / 10)

    def predictor(self, survey: Mapping[str, Any], costs: CostTable) -> Predictor:
        """Return a predictor that believes the survey."""
        return _PerMac(survey["rate"], costs)


def policy(keep_ratio: float) -> Policy:
    ratios = {group.name: keep_ratio for group in PROBLEM.groups.prunable}
    return PROBLEM.groups.canonical(Policy.from_keep_ratios(ratios))


def trial(number: int, chosen: Policy, value: float, **more: Any) -> Trial:
    evaluation = Evaluation({"slow_ms": Measurement(value)}, **more)
    return Trial(number, chosen, "x", state=TrialState.COMPLETED, evaluation=evaluation)


def begun(rate: float = 0.1) -> Forecasts:
    found = Forecasts({"slow_ms": Slow()}, PROBLEM.costs)
    macs = PROBLEM.costs.costs(Policy()).macs
    found.take(trial(0, Policy(), macs / 10, surveys={"slow_ms": {"rate": rate}}))
    return found


def bounded(text: object) -> Job:
    return Job.model_validate(
        {"model": {"name": "x"}, "data": "digits", "constraints": [Constraint.parse(text)]}
    )


def test_nothing_is_foretold_before_the_survey() -> None:
    found = Forecasts({"slow_ms": Slow()}, PROBLEM.costs)
    assert found.favourable(bounded("slow_ms <= 1"), policy(0.5)) == {}
    assert found.errors() == {}


def test_constraints_are_given_the_kind_end_of_the_interval() -> None:
    found, half = begun(), policy(0.5)
    value = PROBLEM.costs.costs(half).macs / 10
    assert found.favourable(bounded("slow_ms <= 1"), half)["slow_ms"].value == pytest.approx(
        0.9 * value
    )
    assert found.favourable(bounded("slow_ms >= 1"), half)["slow_ms"].value == pytest.approx(
        1.1 * value
    )
    assert "predicted" in found.favourable(bounded("slow_ms <= 1"), half)["slow_ms"].note


def test_soft_constraints_and_other_metrics_bar_nothing() -> None:
    assert begun().favourable(bounded({"soft": "slow_ms <= 1"}), policy(0.5)) == {}
    assert begun().favourable(bounded("macs <= 1"), policy(0.5)) == {}


def test_errors_by_hand_without_the_dense_network() -> None:
    found = begun()
    for number, (keep_ratio, factor) in enumerate([(0.25, 1.0), (0.5, 1.25), (0.75, 0.8)], 1):
        chosen = policy(keep_ratio)
        assert found.errors() == {}
        found.take(trial(number, chosen, factor * PROBLEM.costs.costs(chosen).macs / 10))
    (error,) = found.errors().values()
    # |1 - 1|, |1 - 1.25| / 1.25 and |1 - 0.8| / 0.8; two of three are off by more than a tenth.
    assert error == ForecastError(3, pytest.approx((0 + 0.2 + 0.25) / 3), 1.0, pytest.approx(1 / 3))


def test_nothing_is_foretold_or_learned_of_what_is_not_covered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Slow, "predictor", lambda _, survey, costs: _Wary(survey["rate"], costs))
    found = begun()
    sparse = replace(policy(0.5), layers={"conv": LayerDecision(keep_ratio=0.5)})
    assert found.favourable(bounded("slow_ms <= 1"), sparse) == {}
    assert found.favourable(bounded("slow_ms <= 1"), policy(0.5))
    for number, chosen in enumerate([sparse, policy(0.25), policy(0.5), sparse, policy(0.75)], 1):
        found.take(trial(number, chosen, 5.0))
    assert found.errors()["slow_ms"].count == 3
    predictor = found._predictors["slow_ms"]
    assert isinstance(predictor, _Wary)
    assert predictor.learned[1:] == [5.0, 5.0, 5.0]


def test_a_policy_counts_once_whatever_rungs_it_climbs() -> None:
    found = begun()
    for number in range(1, 5):
        found.take(trial(number, policy(0.2 * number), 5.0))
        found.take(replace(trial(number + 9, policy(0.2 * number), 5.0), rung=1))
    assert found.errors()["slow_ms"].count == 4


def test_predictions_are_made_before_their_trial_is_learned() -> None:
    found = begun()
    predictor = found._predictors["slow_ms"]
    assert isinstance(predictor, _PerMac)
    assert len(predictor.learned) == 1  # the dense network
    found.take(trial(1, policy(0.5), 7.0))
    assert predictor.learned[1:] == [7.0]


class Surveyed(SmallEvaluator):
    """Brings the metric and its survey along."""

    def evaluate(self, item: WorkItem) -> Evaluation:
        """Return error, macs and the metric; the survey with the dense network."""
        found = super().evaluate(item)
        measured = {**found.measurements, "slow_ms": Measurement(found.value("macs") / 10)}
        surveys = {} if item.dense else {"slow_ms": {"rate": 0.1}}
        return Evaluation(measured, seconds=1.0, surveys=surveys)


def test_a_trial_that_cannot_meet_a_bound_is_never_run(tmp_path: Path) -> None:
    job = small_job(
        objectives=["error", "macs", f"{__name__}:Slow"], constraints=["slow_ms <= 0.5 * dense"]
    )
    state, _ = small_search(job, tmp_path / "store.sqlite", evaluator=Surveyed())
    bound = 0.5 * state.dense.value("slow_ms")
    pruned = [each for each in state.history.trials.values() if each.number]
    barred = [each for each in pruned if each.state is TrialState.INFEASIBLE]
    assert barred
    for each in pruned:
        assert each.evaluation is not None
        likely = 0.9 * each.evaluation.value("macs") / 10
        assert (likely > bound) == (each in barred)
    # What was run and broke it all the same is off the front.
    assert all(x.evaluation and x.evaluation.is_feasible for x in state.front.members)
    assert state.forecasts.errors()["slow_ms"].mape == pytest.approx(0.0, abs=1e-12)


def test_a_resumed_search_foretells_the_same(tmp_path: Path) -> None:
    job = small_job(objectives=["error", "macs", f"{__name__}:Slow"])
    state, _ = small_search(job, tmp_path / "store.sqlite", evaluator=Surveyed())
    with SqlStore(tmp_path / "store.sqlite") as store:
        again = small_state(job, store)
    assert again.forecasts.errors() == state.forecasts.errors()
