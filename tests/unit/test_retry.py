"""Which failures are tried again, how often, and when a search gives up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autoprune.contracts.executor import Executor, Result, WorkItem, WorkResult
from autoprune.contracts.store import EventKind
from autoprune.contracts.training import TrainingItem
from autoprune.controller.agenda import STALL_AFTER, STALL_AFTER_LOSSES
from autoprune.controller.loop import MAX_ATTEMPTS, SearchLoop, is_tried_again
from autoprune.controller.state import DENSE_NUMBER, JobState
from autoprune.errors import AutopruneError
from autoprune.store.sql import SqlStore
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement, TrialState
from tests.searching import SmallEvaluator, small_job, small_state

CRASH, LOSS = Failure(FailureKind.CRASH, "signal 11"), Failure(FailureKind.INFRA, "power cut")
RETRIED = {FailureKind.CRASH, FailureKind.OOM_HOST, FailureKind.OOM_GPU}
BLAMELESS = {FailureKind.PREEMPTED, FailureKind.INFRA}
Fate = Callable[[WorkItem], Failure | Evaluation | None]


class Fateful(Executor):
    """One worker whose items end as `fate` says; None: they are measured."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.items: list[WorkItem] = []
        self._item: WorkItem | None = None
        self._evaluator = SmallEvaluator()

    @property
    def free(self) -> int:
        return int(self._item is None)

    def submit(self, item: WorkItem | TrainingItem) -> None:
        assert isinstance(item, WorkItem)
        self._item = item

    def wait(self, timeout_s: float) -> Sequence[Result]:
        if self._item is None:
            return []
        item, self._item = self._item, None
        self.items.append(item)
        end = self.fate(item) or self._evaluator.evaluate(item)
        if isinstance(end, Failure):
            return [WorkResult(item, failure=end)]
        return [WorkResult(item, end)]

    def close(self) -> None:
        self._item = None


def search(path: Path, fate: Fate, trials: int = 4) -> tuple[str, JobState, list[WorkItem]]:
    """Search, or go on, while items meet with their fate; return end, state and items run."""
    job = small_job(searchers=["nsga2"], budget={"trials": trials})
    executor = Fateful(fate)
    with SqlStore(path / "store.sqlite") as store:
        if store.find(job.name) is None:
            store.create_job(job.name, {})
        state = small_state(job, store)
        return SearchLoop(state, store, lambda: executor).run(), state, executor.items


def closing(path: Path, reason: str = "stalled") -> str:
    """Return what the log says about the end of the last session, which was for `reason`."""
    with SqlStore(path / "store.sqlite", read_only=True) as store:
        last = list(store.events("job"))[-1]
    assert last.kind is EventKind.CLOSED
    assert last.body["reason"] == reason
    return str(last.body["detail"])


def all_but_dense(failure: Failure) -> Fate:
    return lambda item: None if item.trial == DENSE_NUMBER else failure


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_is_tried_again_as_often_as_it_deserves(kind: FailureKind) -> None:
    failure = Failure(kind, "")
    expected = 3 if kind in RETRIED else 10**6 if kind in BLAMELESS else 1
    assert is_tried_again(failure, expected - 1) or expected == 1
    assert is_tried_again(failure, expected) == (kind in BLAMELESS)


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("split", ["search", "report"])
def test_a_trial_that_always_fails_is_given_up(
    tmp_path: Path, kind: FailureKind, split: str
) -> None:
    """Unless it is not to blame: then it is lost five times here, and completes."""
    failures = 0

    def fate(item: WorkItem) -> Failure | None:
        nonlocal failures
        if (item.trial, item.split) != (victim, split) or (kind in BLAMELESS and failures == 5):
            return None
        failures += 1
        return Failure(kind, "as told")

    victim = 1 if split == "search" else DENSE_NUMBER
    end, state, items = search(tmp_path, fate)
    assert end == "finished"
    attempts = [x.attempt for x in items if (x.trial, x.split) == (victim, split)]
    trial = state.history.trials[victim]
    if kind in BLAMELESS:
        assert attempts == [1] * 6
        assert trial.state is TrialState.COMPLETED
        assert trial.attempts == 1
        assert (trial.report is not None) or split == "search"
        return
    assert attempts == list(range(1, 1 + (MAX_ATTEMPTS if kind in RETRIED else 1)))
    if split == "search":
        assert (trial.state, trial.failure) == (TrialState.FAILED, Failure(kind, "as told"))
        assert trial.attempts == len(attempts)
    else:
        assert (trial.state, trial.report) == (TrialState.COMPLETED, None)
    others = [x for x in state.history.trials.values() if x.number != victim]
    assert all(x.state is TrialState.COMPLETED for x in others)


def test_attempts_are_counted_across_sessions_and_kinds(tmp_path: Path) -> None:
    ends = [CRASH, LOSS, CRASH, KeyboardInterrupt(), LOSS, CRASH]

    def fate(item: WorkItem) -> Failure | None:
        if item.trial != 1:
            return None
        end = ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, fate)
    end, state, items = search(tmp_path, fate)
    assert end == "finished"
    assert not ends
    assert [x.attempt for x in items if x.trial == 1] == [3, 3]
    trial = state.history.trials[1]
    assert (trial.state, trial.attempts, trial.failure) == (TrialState.FAILED, 3, CRASH)


@pytest.mark.parametrize(
    ("failure", "count", "why"),
    [
        (CRASH, STALL_AFTER * MAX_ATTEMPTS, "10 trials failed in a row"),
        (Failure(FailureKind.TIMEOUT, "no end"), STALL_AFTER, "10 trials failed in a row"),
        (LOSS, STALL_AFTER_LOSSES, "workers were lost 30 times in a row"),
    ],
    ids=lambda each: str(each.kind) if isinstance(each, Failure) else "",
)
def test_a_search_in_which_nothing_works_stalls_says_why_and_can_go_on(
    tmp_path: Path, failure: Failure, count: int, why: str
) -> None:
    end, state, items = search(tmp_path, all_but_dense(failure), trials=30)
    assert end == "stalled"
    assert len(items) == 1 + count
    assert closing(tmp_path) == f"{why}, the last one with {failure}"
    known = len(state.history.trials)
    end, state, items = search(tmp_path, lambda item: None, trials=30)
    assert end == "finished"
    assert closing(tmp_path, "finished") == ""
    assert sum(x.split == "search" for x in items) == len(state.history.trials) - known + (
        failure is LOSS  # its trial was still open
    )


@pytest.mark.parametrize("failure", [CRASH, LOSS])
def test_a_trial_that_completes_now_and_then_keeps_a_search_going(
    tmp_path: Path, failure: Failure
) -> None:
    limit = STALL_AFTER if failure is CRASH else STALL_AFTER_LOSSES
    in_a_row = 0

    def fate(item: WorkItem) -> Failure | None:
        nonlocal in_a_row
        is_last = failure is LOSS or item.attempt == MAX_ATTEMPTS
        if item.split == "report" or item.trial == DENSE_NUMBER:
            return None
        if in_a_row == limit - 1:
            in_a_row = 0
            return None
        in_a_row += is_last
        return failure

    end, state, _ = search(tmp_path, fate, trials=2 * STALL_AFTER)
    assert end == "finished"
    completed = [x for x in state.history.trials.values() if x.state is TrialState.COMPLETED]
    assert len(completed) == (3 if failure is CRASH else len(state.history.trials))


def test_a_session_starts_counting_anew(tmp_path: Path) -> None:
    left = STALL_AFTER - 1

    def fate(item: WorkItem) -> Failure | None:
        nonlocal left
        if item.trial == DENSE_NUMBER:
            return None
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return Failure(FailureKind.INVALID, "as told")

    for _ in range(2):
        left = STALL_AFTER - 1
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, fate, trials=40)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_fails_its_trial_whoever_measured_it(
    tmp_path: Path, value: float
) -> None:
    def fate(item: WorkItem) -> Evaluation | None:
        measured = {"error": Measurement(value), "macs": Measurement(1.0)}
        return Evaluation(measured) if item.trial == 2 else None

    end, state, items = search(tmp_path, fate)
    assert end == "finished"
    trial = state.history.trials[2]
    assert trial.failure == Failure(FailureKind.NONFINITE, "not a number: error")
    assert (trial.state, trial.attempts) == (TrialState.FAILED, 1)
    assert [x.trial for x in items].count(2) == 1
    assert 2 not in {x.number for x in state.front.members}


def test_a_dense_network_that_fails_ends_the_search_with_its_failure(tmp_path: Path) -> None:
    with pytest.raises(AutopruneError, match="dense network cannot be evaluated: signal 11"):
        search(tmp_path, lambda item: CRASH)
    assert "signal 11" in closing(tmp_path, "failed")


def test_a_report_whose_workers_are_always_lost_ends_and_can_go_on(tmp_path: Path) -> None:
    def fate(item: WorkItem) -> Failure | None:
        return LOSS if item.split == "report" else None

    with pytest.raises(AutopruneError, match="power cut"):
        search(tmp_path, fate)
    assert "power cut" in closing(tmp_path)
    end, state, items = search(tmp_path, lambda item: None)
    assert end == "finished"
    assert state.front.members
    assert {item.split for item in items} == {"report"}


def test_what_nobody_expected_is_logged_as_a_failure(tmp_path: Path) -> None:
    def fate(item: WorkItem) -> Failure | None:
        if item.trial > 2:
            raise ZeroDivisionError("a bug of ours")
        return None

    with pytest.raises(ZeroDivisionError):
        search(tmp_path, fate)
    assert "a bug of ours" in closing(tmp_path, "failed")
    assert search(tmp_path, lambda item: None)[0] == "finished"
