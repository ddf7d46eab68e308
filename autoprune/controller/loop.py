"""The controller: asks searchers, runs trials, keeps the log; asynchronous throughout.

One turn of the loop, and what a crash after each point costs:

    1 searchers are asked, for every free worker       nothing: they are asked again
    2 ASKED is committed, one transaction for all      nothing: it is open, and runs
    3 the trials are submitted                         they run again
    4 results come in                                  they run again
    5 COMPLETED is committed, one transaction for all  nothing: never run again
    6 searchers are told, the fronts grow              nothing: the log says it all
    7 now and then a snapshot is kept                  nothing: it only saves time
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from autoprune.contracts.executor import (
    Executor,
    Result,
    Split,
    TrainingResult,
    WorkItem,
    WorkResult,
    failed,
)
from autoprune.contracts.recovery import Teacher
from autoprune.contracts.store import Entry, Event, EventKind, Store
from autoprune.contracts.training import TrainingItem
from autoprune.controller.agenda import STALL_AFTER_LOSSES, Agenda, is_open
from autoprune.controller.interrupt import InterruptGate
from autoprune.controller.journal import Journal
from autoprune.controller.progress import Progress, Watcher, unwatched
from autoprune.controller.roster import seed_of
from autoprune.controller.state import DENSE_NUMBER, JobState
from autoprune.errors import AutopruneError, ExecutorError, FencedError
from autoprune.fidelity import policy_at
from autoprune.metrics import constrained
from autoprune.store import entries
from autoprune.store.snapshot import pack
from autoprune.trial import Evaluation, Failure, FailureKind, Trial, TrialState

MAX_ATTEMPTS = 3
_POLL_S = 0.2
# Trials that ended between two snapshots: the most that a resumed search asks and tells again.
_SNAPSHOT_EVERY = 50
# The most events in one transaction of proposals.
_COMMIT_EVERY = 200
_log = logging.getLogger(__name__)


class SearchLoop:
    """Drives one job to its end: a store to write to, as the controller of one `epoch`, and
    `start`, which starts an executor. The executor is closed at the end of the run.
    """

    def __init__(
        self,
        state: JobState,
        store: Store,
        start: Callable[[], Executor],
        *,
        epoch: int = 0,
        watcher: Watcher = unwatched,
    ) -> None:
        self.state = state
        self.agenda = Agenda(state)
        self._start = start
        self._watcher = watcher
        self._journal = Journal(
            store, state.key, epoch=epoch, after=state.history.last_seq, idle=self._idle
        )
        self._queue: list[Trial] = list(state.history.pending)
        self._under_way: set[int] = set()
        self._is_training = False
        self._is_draining = False
        self._training_failures = 0
        self._unsaved = 0
        self._unknown: list[Event] = []  # to the state, for they are not known to be durable
        self._gate = InterruptGate()

    def run(self) -> str:
        """Work until the budget is spent, then measure the front on the report split.

        Returns `finished`, `exhausted` (the searchers had nothing more) or `stalled` (too
        many failures in a row). Raises `AutopruneError` if the dense network cannot be
        evaluated or no worker is left, and `FencedError` if another controller took over.
        Whatever ends the run, also `KeyboardInterrupt`, is written to the log.
        """
        reason, detail = "failed", ""
        with self._gate:
            self._commit([entries.opened()])
            try:
                with self._gate.passage():
                    self.executor = self._start()
                try:
                    reason = self._search()
                    if reason != "stalled":
                        self._report()
                finally:
                    self.executor.close()
                detail = self.agenda.stall or ""
            except KeyboardInterrupt:
                reason = "interrupted"
                raise
            except Exception as error:
                reason = "stalled" if isinstance(error, ExecutorError) else "failed"
                detail = str(error) if isinstance(error, AutopruneError) else repr(error)
                raise
            finally:
                self._close(reason, detail)
        return reason

    def stop(self) -> None:
        """Interrupt the run from another thread, as Ctrl-C does from the terminal."""
        self._gate.interrupt()

    def drain(self) -> None:
        """Begin nothing new; the run is interrupted as soon as what is under way has finished."""
        self._is_draining = True

    def progress(self) -> Progress:
        """Return how far the run has come; safe to call between turns only."""
        return self.agenda.progress(self._journal.trouble)

    def _close(self, reason: str, detail: str) -> None:
        """Log the end of the session; what another controller holds is left alone."""
        try:
            self._commit([entries.closed(reason, detail)])
            self._save_snapshot()
        except FencedError as error:
            _log.warning("the end of this session is not logged: %s", error)

    def _search(self) -> str:
        self._drive(self.agenda.dense)
        dense = self.state.history.trials[DENSE_NUMBER]
        if dense.state is not TrialState.COMPLETED:
            message = dense.failure.message if dense.failure else "it did not complete"
            raise AutopruneError(f"the dense network cannot be evaluated: {message}")
        self._drive(self.agenda.next, trains=True)
        for rung in range(len(self.state.job.rungs) - 1):
            self._drive(partial(self.agenda.final_promotion, rung))
        if self.agenda.is_stalled:
            return "stalled"
        return "finished" if self.agenda.is_budget_spent else "exhausted"

    def _drive(self, source: Callable[[], Sequence[Entry]], *, trains: bool = False) -> None:
        """Keep the executor busy with what `source` proposes until there is no more.

        What a searcher requests to be trained has precedence where `trains`.
        """
        while True:
            is_draining = self._is_draining
            if trains and not (is_draining or self._is_training) and self.executor.free > 0:
                self._train()
            is_dry = is_draining or not self._fill(source)
            self._watcher(self.progress)
            if is_dry and not self._under_way and not self._is_training:
                if is_draining:
                    raise KeyboardInterrupt
                return
            self._settle(self._wait())

    def _train(self) -> None:
        """Start the next slice of a requested training, one at a time."""
        request = self.agenda.training()
        if request is not None:
            seed = seed_of(self.state.job.seed, "training")
            head, attempt = self.state.roster.head, self._training_failures + 1
            item = TrainingItem(head, request, self.state.progress, seed, attempt)
            self._is_training = True
            self.executor.submit(item)

    def _settle_training(self, result: TrainingResult) -> None:
        """Commit what came of a slice; one that cannot be had ends the training."""
        self._is_training = False
        if result.progress is not None:
            self._training_failures = 0
            self._commit([entries.trained(result.progress)])
            return
        failure, attempt = result.failure, result.item.attempt
        assert failure is not None
        if is_tried_again(failure, attempt):
            self._training_failures = attempt - failure.kind.is_blameless
            return
        _log.warning("training of %s failed: %s", result.item.searcher, failure)
        self._commit([entries.untrained(failure)])

    def _fill(self, source: Callable[[], Sequence[Entry]]) -> bool:
        """Start trials while workers are free; return False once `source` is dry.

        A stalled search starts nothing: what is queued stays open for the next session.
        """
        is_dry = self.agenda.is_stalled
        while not is_dry and self.executor.free > 0:
            with self._gate.passage():
                pass  # proposals that cost nothing can go on for long: let Ctrl-C in between
            staged = 0
            while len(self._queue) < self.executor.free and staged < _COMMIT_EVERY:
                proposed = source()
                is_dry = not proposed
                if is_dry:
                    break
                self._stage(proposed)
                staged += len(proposed)
            self._flush()
            while self._queue and self.executor.free > 0:
                self._submit(self._item(self._queue.pop(0), "search"))
        return not is_dry

    def _report(self) -> None:
        """Measure the dense network and the fronts on the report split, at their rungs.

        Raises `ExecutorError` where workers are lost again and again.
        """
        waiting, lost = [self._item(x, "report") for x in self.agenda.unreported()], 0
        while self._under_way or (waiting and not self._is_draining):
            while waiting and not self._is_draining and self.executor.free > 0:
                self._submit(waiting.pop(0))
            self.agenda.to_report = len(waiting) + len(self._under_way)
            self._watcher(self.progress)
            for result in self._wait():
                assert isinstance(result, WorkResult)
                item, failure = result.item, result.failure
                self._under_way.discard(item.trial)
                if result.evaluation is not None:
                    lost = 0
                    evaluation = self._judged(item.trial, result.evaluation)
                    self._commit([entries.reported(item.trial, evaluation)])
                elif failure is not None and is_tried_again(failure, item.attempt):
                    lost += failure.kind.is_blameless
                    if lost >= STALL_AFTER_LOSSES:
                        raise ExecutorError(f"{lost} attempts were lost, the last to {failure}")
                    attempt = item.attempt + 1 - failure.kind.is_blameless
                    waiting.append(replace(item, attempt=attempt))
        if waiting:  # drained
            raise KeyboardInterrupt

    def _wait(self) -> Sequence[Result]:
        """Wait for results; where Ctrl-C gets through."""
        with self._gate.passage():
            return [finite(each) for each in self.executor.wait(_POLL_S)]

    def _idle(self, seconds: float) -> None:
        """Let time pass while storage cannot serve; Ctrl-C gets through."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._watcher(self.progress)
            with self._gate.passage():
                time.sleep(min(left, _POLL_S))

    def _item(self, trial: Trial, split: Split) -> WorkItem:
        # The same seed on both splits: the report judges the network that was selected.
        seed = seed_of(self.state.job.seed, f"trial {trial.number}")
        attempt = trial.attempts + 1 if split == "search" else 1
        dense = self.state.dense.measurements if self.state.has_roster else {}
        teacher = self._teacher(trial)
        return WorkItem(
            trial.number, trial.policy, trial.rung, split, seed, attempt, dense, teacher
        )

    def _teacher(self, trial: Trial) -> Teacher | None:
        """Return the network of another trial that teaches this one."""
        if trial.teacher is None:
            return None
        other = self.state.history.trials[trial.teacher]
        assert other.evaluation is not None
        assert other.evaluation.weights is not None
        groups = self.state.preparation.graph.groups
        policy = policy_at(self.state.job, groups, other.policy, other.rung)
        return Teacher(policy, other.evaluation.weights)

    def _submit(self, item: WorkItem) -> None:
        self._under_way.add(item.trial)
        self.executor.submit(item)

    def _settle(self, results: Sequence[Result]) -> None:
        """Commit what came of evaluations on the search split, all at once; then tell."""
        new = []
        for result in results:
            if isinstance(result, TrainingResult):
                self._settle_training(result)
            else:
                self._under_way.discard(result.item.trial)
                new.append(self._outcome(result))
        if new:
            self._commit(new)

    def _outcome(self, result: WorkResult) -> Entry:
        """Return the event that an attempt ends with."""
        item, failure = result.item, result.failure
        if result.evaluation is not None:
            evaluation = self._judged(item.trial, result.evaluation)
            return entries.completed(item.trial, evaluation, attempt=item.attempt)
        assert failure is not None
        build = entries.retried if is_tried_again(failure, item.attempt) else entries.failed
        return build(item.trial, failure, attempt=item.attempt - failure.kind.is_blameless)

    def _judged(self, number: int, evaluation: Evaluation) -> Evaluation:
        """Return the evaluation with the constraints that it breaks."""
        dense = evaluation if number == DENSE_NUMBER else self.state.dense
        return constrained(self.state.job, evaluation, dense.measurements)

    def _commit(self, new: Sequence[Entry]) -> None:
        """Write entries; then, and only then, let the state know and queue what is open.

        Where an interrupt ends the wait for storage, the next commit makes up for both.
        """
        self._unknown += self._journal.stage(new)
        self._journal.flush()
        events, self._unknown = self._unknown, []
        self._apply(events)

    def _stage(self, new: Sequence[Entry]) -> None:
        """Let the state know of proposals at once; nothing is done about them before `_flush`."""
        self._apply(self._journal.stage(new))

    def _flush(self) -> None:
        """Write what was staged, and keep a snapshot now and then."""
        self._journal.flush()
        if self._unsaved >= _SNAPSHOT_EVERY:
            self._save_snapshot()

    def _apply(self, events: Sequence[Event]) -> None:
        for event in events:
            self.state.apply(event)
        for event in events:
            if event.kind in (EventKind.ASKED, EventKind.RETRIED) and event.trial is not None:
                trial = self.state.history.trials[event.trial]
                if is_open(trial):
                    self._queue.append(trial)
        self._unsaved += sum(event.kind.name in TrialState.__members__ for event in events)

    def _save_snapshot(self) -> None:
        """Keep the searchers' state, which only saves time: the log can do without."""
        self._unsaved = 0
        if self.state.has_roster:
            try:
                body = pack(self.state.roster.state_dict())
            except Exception:
                _log.warning("the searchers' state cannot be kept", exc_info=True)
                return
            self._journal.save_snapshot(body)


def finite(result: Result) -> Result:
    """Return a result, as a failure where a measured value is not a number."""
    if isinstance(result, TrainingResult) or result.evaluation is None:
        return result
    broken = [name for name, x in result.evaluation.measurements.items() if not x.is_finite]
    if not broken:
        return result
    return failed(result.item, Failure(FailureKind.NONFINITE, f"not a number: {', '.join(broken)}"))


def is_tried_again(failure: Failure, attempt: int) -> bool:
    """Say whether an attempt, counted from 1, is followed by another one."""
    if failure.kind.is_blameless:
        return True
    return not failure.kind.is_deterministic and attempt < MAX_ATTEMPTS
