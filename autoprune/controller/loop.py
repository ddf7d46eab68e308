"""The controller: asks searchers, runs trials, keeps the log; asynchronous throughout.

One turn of the loop, and what is durable at each step:

    ask ─► commit ASKED ─► submit ─► wait ─► commit COMPLETED ─► tell ─► front
             (a crash from here on runs the trial again)  (from here on: never again)
"""

from __future__ import annotations

import logging
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
)
from autoprune.contracts.store import Entry, EventKind, Store
from autoprune.contracts.training import TrainingItem
from autoprune.controller.agenda import Agenda, is_open
from autoprune.controller.interrupt import InterruptGate
from autoprune.controller.roster import seed_of
from autoprune.controller.state import DENSE_NUMBER, JobState
from autoprune.errors import AutopruneError
from autoprune.metrics import violations
from autoprune.store import entries
from autoprune.store.snapshot import pack
from autoprune.trial import Evaluation, Trial, TrialState

MAX_ATTEMPTS = 3
_POLL_S = 0.2
# Trials that ended between two snapshots: the most that a resumed search asks and tells again.
_SNAPSHOT_EVERY = 50
_log = logging.getLogger(__name__)


class SearchLoop:
    """Drives one job to its end with one executor and one store."""

    def __init__(
        self,
        state: JobState,
        store: Store,
        executor: Executor,
        on_progress: Callable[[Agenda], None] = lambda agenda: None,
    ) -> None:
        self.state = state
        self.store = store
        self.executor = executor
        self.on_progress = on_progress
        self.agenda = Agenda(state)
        self._queue: list[Trial] = list(state.history.pending)
        self._under_way: set[int] = set()
        self._is_training = False
        self._unsaved = 0
        self._gate = InterruptGate()

    def run(self) -> str:
        """Work until the budget is spent, then measure the front on the report split.

        Returns `finished`, `exhausted` (the searchers had nothing more) or `stalled` (too
        many failures in a row). Raises `AutopruneError` if the dense network cannot be
        evaluated. Whatever ends the run, also `KeyboardInterrupt`, is written to the log.
        """
        reason = "interrupted"
        with self._gate:
            self._commit([entries.opened()])
            try:
                reason = self._search()
                if reason != "stalled":
                    self._report()
            except AutopruneError:
                reason = "failed"
                raise
            finally:
                self._commit([entries.closed(reason)])
                self._save_snapshot()
        return reason

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
            if trains and not self._is_training and self.executor.free > 0:
                self._train()
            is_dry = not self._fill(source)
            self.on_progress(self.agenda)
            if is_dry and not self._under_way and not self._queue and not self._is_training:
                return
            for result in self._wait():
                if isinstance(result, TrainingResult):
                    self._settle_training(result)
                else:
                    self._under_way.discard(result.item.trial)
                    self._settle(result)

    def _train(self) -> None:
        """Start the next slice of a requested training, one at a time."""
        request = self.agenda.training()
        if request is not None:
            seed = seed_of(self.state.job.seed, "training")
            item = TrainingItem(self.state.roster.head, request, self.state.progress, seed)
            self._is_training = True
            self.executor.submit(item)

    def _settle_training(self, result: TrainingResult) -> None:
        """Commit what came of a slice; one that cannot be had ends the training."""
        self._is_training = False
        if result.progress is not None:
            self._commit([entries.trained(result.progress)])
            return
        assert result.failure is not None
        if not result.failure.kind.is_deterministic and result.item.attempt < MAX_ATTEMPTS:
            self._is_training = True
            self.executor.submit(replace(result.item, attempt=result.item.attempt + 1))
            return
        _log.warning("training of %s failed: %s", result.item.searcher, result.failure.message)
        self._commit([entries.untrained(result.failure)])

    def _fill(self, source: Callable[[], Sequence[Entry]]) -> bool:
        """Start trials while workers are free; return False once `source` is dry."""
        while self.executor.free > 0:
            with self._gate.passage():
                pass  # proposals that cost nothing can go on for long: let Ctrl-C in between
            if self._queue:
                self._submit(self._queue.pop(0), "search")
                continue
            proposed = source()
            if not proposed:
                return False
            self._commit(proposed)
        return True

    def _report(self) -> None:
        """Measure the dense network and the fronts on the report split, at their rungs."""
        waiting = self.agenda.unreported()
        while waiting or self._under_way:
            while waiting and self.executor.free > 0:
                self._submit(waiting.pop(0), "report")
            self.agenda.to_report = len(waiting) + len(self._under_way)
            self.on_progress(self.agenda)
            for result in self._wait():
                assert isinstance(result, WorkResult)
                self._under_way.discard(result.item.trial)
                if result.evaluation is not None:
                    evaluation = self._judged(result.item.trial, result.evaluation)
                    self._commit([entries.reported(result.item.trial, evaluation)])
                elif result.item.attempt < MAX_ATTEMPTS:
                    self._submit_again(result.item)

    def _wait(self) -> Sequence[Result]:
        """Wait for results; the one place where Ctrl-C gets through."""
        with self._gate.passage():
            return self.executor.wait(_POLL_S)

    def _submit(self, trial: Trial, split: Split) -> None:
        # The same seed on both splits: the report judges the network that was selected.
        seed = seed_of(self.state.job.seed, f"trial {trial.number}")
        attempt = trial.attempts + 1 if split == "search" else 1
        item = WorkItem(trial.number, trial.policy, trial.rung, split, seed, attempt)
        self._under_way.add(trial.number)
        self.executor.submit(item)

    def _submit_again(self, item: WorkItem) -> None:
        self._under_way.add(item.trial)
        self.executor.submit(replace(item, attempt=item.attempt + 1))

    def _settle(self, result: WorkResult) -> None:
        """Commit what came of an evaluation on the search split."""
        item = result.item
        if result.evaluation is not None:
            evaluation = self._judged(item.trial, result.evaluation)
            self._commit([entries.completed(item.trial, evaluation, attempt=item.attempt)])
            return
        assert result.failure is not None
        is_retried = not result.failure.kind.is_deterministic and item.attempt < MAX_ATTEMPTS
        build = entries.retried if is_retried else entries.failed
        self._commit([build(item.trial, result.failure, attempt=item.attempt)])

    def _judged(self, number: int, evaluation: Evaluation) -> Evaluation:
        """Return the evaluation with the constraints that it breaks."""
        measured = dict(evaluation.measurements)
        dense = measured if number == DENSE_NUMBER else dict(self.state.dense.measurements)
        broken = violations(self.state.job, measured, dense)
        return replace(evaluation, violations=broken)

    def _commit(self, new: Sequence[Entry]) -> None:
        """Write entries; then, and only then, let the state know and queue what is open."""
        events = self.store.append(self.state.job.name, new)
        for event in events:
            self.state.apply(event)
        for event in events:
            if event.kind in (EventKind.ASKED, EventKind.RETRIED) and event.trial is not None:
                trial = self.state.history.trials[event.trial]
                if is_open(trial):
                    self._queue.append(trial)
        self._unsaved += sum(event.kind.name in TrialState.__members__ for event in events)
        if self._unsaved >= _SNAPSHOT_EVERY:
            self._save_snapshot()

    def _save_snapshot(self) -> None:
        """Keep the searchers' state, which only saves time: the log can do without."""
        self._unsaved = 0
        if self.state.has_roster:
            try:
                body = pack(self.state.roster.state_dict())
            except Exception:
                _log.warning("the searchers' state cannot be kept", exc_info=True)
                return
            self.store.save_snapshot(self.state.job.name, self.state.history.last_seq, body)
