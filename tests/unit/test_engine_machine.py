"""Store and engine as one state machine: whatever happens, in whatever order, the log is right."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from autoprune.contracts.executor import WorkResult
from autoprune.contracts.store import Event, EventKind
from autoprune.controller.loop import MAX_ATTEMPTS
from autoprune.errors import FencedError
from autoprune.job.spec import Job
from autoprune.store.history import History
from autoprune.store.sql import SqlStore
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement, TrialState
from tests.searching import SmallEvaluator, small_job
from tests.session import AWAY, AWAY_AFTER_WRITING, DIE, DIE_AFTER_WRITING, Death, Session

JOB = "job"
BASELINE, BASELINE_TRIALS = "random", 2
EVALUATOR = SmallEvaluator()
ENDS = (EventKind.COMPLETED, EventKind.FAILED, EventKind.INFEASIBLE, EventKind.STOPPED)
MEASURED, NOT_A_NUMBER = "measured", "not a number"
OUTCOMES = st.sampled_from([*[MEASURED] * 5, NOT_A_NUMBER, *FailureKind])
BUDGETS = st.integers(1, 8)
FAULTS = st.lists(st.sampled_from([AWAY, AWAY_AFTER_WRITING, DIE, DIE_AFTER_WRITING]), max_size=2)
ANSWERS = st.lists(st.tuples(st.integers(0, 2), OUTCOMES), max_size=3)


class Engine(RuleBasedStateMachine):
    """One job, the session that drives it, and one that was driven out and does not know."""

    def __init__(self, empty_store: Path) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.path = Path(self.directory.name) / "store.sqlite"
        shutil.copy(empty_store, self.path)
        self.view = SqlStore(self.path, read_only=True)
        self.log: list[Event] = []
        self.sessions: list[Session] = []
        self.live: Session | None = None
        self.old: Session | None = None

    @rule(budget=BUDGETS, capacity=st.integers(1, 3), faults=FAULTS)
    @precondition(lambda self: self.live is None)
    def a_session_begins(self, budget: int, capacity: int, faults: Sequence[str] = ()) -> None:
        self.live = Session(self.path, _job(budget), capacity, faults)
        self.sessions.append(self.live)
        self._look()

    @rule(answers=ANSWERS)
    @precondition(lambda self: self.live)
    def workers_answer(self, answers: list[tuple[int, str]]) -> None:
        assert self.live
        self.live.go_on(_answered(self.live, answers))
        self._look()

    @rule(capacity=st.integers(0, 3))
    @precondition(lambda self: self.live)
    def workers_come_or_go(self, capacity: int) -> None:
        assert self.live
        self.live.capacity = capacity
        self.live.go_on()
        self._look()

    @rule(faults=FAULTS)
    @precondition(lambda self: self.live)
    def the_next_commits_will_fail(self, faults: list[str]) -> None:
        assert self.live
        self.live.expected.add(Death)
        self.live.store.faults += faults

    @rule()
    @precondition(lambda self: self.live)
    def the_process_dies(self) -> None:
        assert self.live
        self.live.die()
        self._look()

    @rule(answers=ANSWERS)
    @precondition(lambda self: self.live)
    def it_is_interrupted(self, answers: list[tuple[int, str]]) -> None:
        assert self.live
        self.live.expected.add(KeyboardInterrupt)
        self.live.loop.stop()
        self.live.go_on(_answered(self.live, answers))
        self._look()
        assert self.live is None

    @rule()
    @precondition(lambda self: self.live)
    def it_is_drained(self) -> None:
        session = self.live
        assert session
        dispatched = len(session.dispatched)
        session.expected.add(KeyboardInterrupt)
        session.loop.drain()
        for _ in range(20):
            if self.live:
                self.workers_answer([(0, MEASURED)])
        assert self.live is None
        assert len(session.dispatched) == dispatched

    @rule(budget=BUDGETS)
    @precondition(lambda self: self.live and not self.old)
    def another_controller_takes_over(self, budget: int) -> None:
        self.old, self.live = self.live, None
        self.a_session_begins(budget, 2)

    @rule(answers=ANSWERS, stop=st.booleans())
    @precondition(lambda self: self.old)
    def the_old_one_goes_on(self, answers: list[tuple[int, str]], stop: bool) -> None:
        assert self.old
        before = self.view.snapshots(JOB)
        self.old.expected = {FencedError, KeyboardInterrupt, Death}
        if stop:
            self.old.loop.stop()
        found = _answered(self.old, answers)
        self.old.go_on(found)
        assert not self.old.is_live or all(each.item.split == "report" for each in found)
        assert not list(self.view.events(JOB, after=len(self.log)))
        assert self.view.snapshots(JOB) == before
        if not self.old.is_live:
            self.old = None

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        for session in self.sessions:
            for event in session.store.acknowledged:
                assert self.log[event.seq - 1] == event

    @invariant()
    def a_trial_ends_once_and_is_never_run_again(self) -> None:
        asked = [x.trial for x in self.log if x.kind is EventKind.ASKED]
        assert asked == list(range(len(asked)))
        ends = {x.trial: x.seq for x in self.log if x.kind in ENDS}
        assert len(ends) == sum(x.kind in ENDS for x in self.log)
        begins = {x.trial: x.seq for x in self.log if x.kind is EventKind.ASKED}
        reports = {x.trial: x.seq for x in self.log if x.kind is EventKind.REPORTED}
        assert len(reports) == sum(x.kind is EventKind.REPORTED for x in self.log)
        for session in self.sessions:
            for item, seq in session.dispatched:
                is_search = item.split == "search"
                before, after = (begins, ends) if is_search else (ends, reports)
                assert before[item.trial] <= seq < after.get(item.trial, math.inf)

    @invariant()
    def a_trial_runs_once_in_a_session_and_again_for_every_retry(self) -> None:
        opened = [x.seq for x in self.log if x.kind is EventKind.OPENED]
        for session in self.sessions:
            runs = Counter(x.trial for x, _ in session.dispatched if x.split == "search")
            if not runs:
                continue
            first = max(seq for seq in opened if seq <= session.dispatched[0][1])
            last = min((seq for seq in opened if seq > first), default=math.inf)
            own = [x for x in self.log if first < x.seq < last]
            retries = Counter(x.trial for x in own if x.kind is EventKind.RETRIED)
            assert all(runs[trial] <= 1 + retries[trial] for trial in runs)

    @invariant()
    def attempts_are_bounded(self) -> None:
        blamed = Counter(
            x.trial
            for x in self.log
            if x.kind in (EventKind.RETRIED, EventKind.FAILED)
            and not FailureKind(x.body["failure"]["kind"]).is_blameless
        )
        assert all(count <= MAX_ATTEMPTS for count in blamed.values())

    @invariant()
    def the_budget_is_kept(self) -> None:
        spent: Counter[str] = Counter()
        infeasible = {x.trial for x in self.log if x.kind is EventKind.INFEASIBLE}
        for event in self.log:
            if event.kind is EventKind.ASKED and event.body["rung"] == 0:
                spent[event.body["searcher"]] += event.trial not in infeasible
        assert spent["dense"] <= 1
        assert spent[BASELINE] <= BASELINE_TRIALS
        budgets = [each.loop.state.job.budget.trials or 0 for each in self.sessions]
        assert spent["nsga2"] <= max(budgets, default=0)

    @invariant()
    def what_is_derived_follows_from_the_log(self) -> None:
        history = History.replay(self.log)
        rows = [
            [row[name] for name in ("number", "searcher", "rung", "parent", "state", "attempts")]
            for row in self.view.trials(JOB)
        ]
        trials = history.trials.values()
        assert rows == [
            [x.number, x.searcher, x.rung, x.parent, x.state, x.attempts] for x in trials
        ]
        if self.live is None:
            return
        state = self.live.loop.state
        assert state.history.trials == history.trials
        assert state.history.last_seq == len(self.log)
        found = {
            rung: {trial.number for trial in front.members} for rung, front in state.fronts.items()
        }
        completed = {x.rung for x in trials if x.state is TrialState.COMPLETED}
        assert found == {rung: _brute_force_front(self.log, rung) for rung in completed}

    def teardown(self) -> None:
        """Whatever has happened, the job can be brought to its end."""
        for session in self.sessions:
            if session.is_live:
                session.die()
        self._look()
        last = self.go_to_the_end(9)
        assert last.loop.agenda.searched == 9
        assert not last.loop.agenda.unreported()
        self.view.close()
        self.directory.cleanup()

    def go_to_the_end(self, budget: int) -> Session:
        """Run a session in which nothing goes wrong."""
        self.a_session_begins(budget, 3)
        for _ in range(200):
            if self.live is None:
                break
            self.workers_answer([(0, MEASURED)])
        assert self.sessions[-1].end == "finished"
        return self.sessions[-1]

    def _look(self) -> None:
        """Take in what was written; a session that has ended is not live any more."""
        for event in self.view.events(JOB, after=len(self.log)):
            assert event.seq == len(self.log) + 1
            self.log.append(event)
        if self.live is None or self.live.is_live:
            return
        end, self.live = self.live.end, None
        if isinstance(end, str):
            assert self.log[-1].kind is EventKind.CLOSED
            assert self.log[-1].body["reason"] == end
        if end in ("finished", "exhausted"):
            assert not History.replay(self.log).pending


def _job(budget: int) -> Job:
    return small_job(
        searchers=["nsga2"],
        baselines={"searchers": [BASELINE], "trials": BASELINE_TRIALS},
        rungs=[{}, {"images": 10}],
        promote_one_in=2,
        constraints=["macs <= 0.8 * dense"],
        budget={"trials": budget},
        resources={"workers": 3},
    )


def _answered(session: Session, answers: Sequence[tuple[int, str]]) -> list[WorkResult]:
    """Return results of running items; the dense network, without which is nothing, is measured."""
    found = []
    for choice, outcome in answers[: len(session.running)]:
        item = session.running.pop(choice % len(session.running))
        evaluation = EVALUATOR.evaluate(item)
        if outcome == NOT_A_NUMBER and item.trial > 0:
            evaluation = Evaluation({**evaluation.measurements, "error": Measurement(math.nan)})
        elif outcome in tuple(FailureKind) and item.trial > 0:
            found.append(WorkResult(item, failure=Failure(FailureKind(outcome), "as told")))
            continue
        found.append(WorkResult(item, evaluation))
    return found


def _brute_force_front(log: Sequence[Event], rung: int) -> set[int]:
    """Return the trials of a rung that no other one beats; of equals the first."""
    of_rung = {x.trial for x in log if x.kind is EventKind.ASKED and x.body["rung"] == rung}
    bodies = {
        x.trial: x.body["evaluation"]
        for x in log
        if x.kind is EventKind.COMPLETED and x.trial in of_rung
    }
    points = {
        trial: (body["measurements"]["error"][0], body["measurements"]["macs"][0])
        for trial, body in bodies.items()
        if not body["violations"]
    }
    return {
        one
        for one, (error, macs) in points.items()
        if not any(
            e <= error and m <= macs and ((e, m) != (error, macs) or other < one)
            for other, (e, m) in points.items()
        )
    }


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Engine]:
    """Return what makes a machine; its searches pause briefly and keep many snapshots."""
    monkeypatch.setattr("autoprune.controller.journal._FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("autoprune.controller.journal._LONGEST_PAUSE_S", 0.001)
    monkeypatch.setattr("autoprune.controller.loop._SNAPSHOT_EVERY", 3)
    with SqlStore(tmp_path / "empty.sqlite") as store:
        store.create_job(JOB, {})
    return lambda: Engine(tmp_path / "empty.sqlite")


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.mark.timeout(900)  # a few seconds, unless there is a failing example to be reduced
def test_whatever_happens_the_log_is_right(
    engine: Callable[[], Engine], caplog: pytest.LogCaptureFixture
) -> None:
    run_state_machine_as_test(engine, settings=_settings(8, 30))
    assert "does not repeat" not in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whatever_happens_the_log_is_right_for_longer(engine: Callable[[], Engine]) -> None:
    run_state_machine_as_test(engine, settings=_settings(500, 50))


@pytest.mark.parametrize("fault", [AWAY, AWAY_AFTER_WRITING])
def test_ctrl_c_while_the_store_is_away_loses_nothing(
    engine: Callable[[], Engine], fault: str
) -> None:
    machine = engine()
    machine.a_session_begins(4, 1)
    machine.the_next_commits_will_fail([fault])
    machine.it_is_interrupted([(0, MEASURED)])
    kinds = [event.kind for event in machine.log]
    assert kinds == ["OPENED", "ASKED", "COMPLETED", "CLOSED"]
    machine.teardown()


def test_a_drained_search_finishes_what_runs_and_can_go_on(engine: Callable[[], Engine]) -> None:
    machine = engine()
    machine.a_session_begins(6, 2)
    machine.workers_answer([(0, MEASURED)])
    assert machine.live
    assert len(machine.live.running) == 2
    machine.it_is_drained()
    assert not History.replay(machine.log).pending
    assert machine.log[-1].body["reason"] == "interrupted"
    machine.teardown()


def test_a_finished_search_that_goes_on_runs_nothing_again(engine: Callable[[], Engine]) -> None:
    machine = engine()
    assert machine.go_to_the_end(4).dispatched
    assert not machine.go_to_the_end(4).dispatched
    machine.teardown()
