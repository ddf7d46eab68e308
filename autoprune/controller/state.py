"""The state of a running job: everything that follows from its log.

`apply` takes one committed event and brings history, searchers and fronts up to it. A
resumed job is rebuilt from its log (`resumed`): history and fronts by every event,
searchers by the newest readable snapshot and the calls that the log holds after it.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from autoprune.contracts.searcher import SearchProblem
from autoprune.contracts.store import Event, EventKind, Store
from autoprune.contracts.training import TrainingProgress
from autoprune.controller.forecast import Forecasts
from autoprune.controller.roster import Roster
from autoprune.errors import StoreError
from autoprune.evaluation.preparation import Preparation
from autoprune.front import Front
from autoprune.job.spec import Job
from autoprune.metrics import goals_of, metrics_of, referenced
from autoprune.policy import Policy
from autoprune.store.history import History
from autoprune.store.snapshot import unpack
from autoprune.trial import Evaluation, Failure, Trial, TrialState

DENSE_NUMBER = 0
_log = logging.getLogger(__name__)


class JobState:
    """History, searchers and fronts of one job.

    `seeds` are canonical policies that are tried before any searcher is asked; `key` is what
    the job is called in its store, where that is not its own name.
    """

    def __init__(
        self,
        job: Job,
        preparation: Preparation,
        problem: SearchProblem,
        seeds: Sequence[Policy] = (),
        *,
        key: str | None = None,
    ) -> None:
        self.job = job
        self.key = key or job.name
        self.preparation = preparation
        self.seeds = tuple(seeds)
        self.metrics = metrics_of(job)
        self.goals = goals_of(job)
        self.forecasts = Forecasts(self.metrics, preparation.graph.costs)
        self.history = History()
        self.fronts: dict[int, Front] = {}
        self.failures_in_a_row = 0
        self.losses_in_a_row = 0
        self.last_failure: Failure | None = None
        self.progress: TrainingProgress | None = None
        self._problem = problem
        self._roster: Roster | None = None
        self._spent: Counter[str] = Counter()
        self._completed: dict[int, list[Trial]] = defaultdict(list)
        self._policies: dict[int, set[str]] = defaultdict(set)

    @property
    def front(self) -> Front:
        """The front of the highest rung that has a completed trial."""
        return self.fronts[max(self.fronts)] if self.fronts else Front(self.goals)

    @property
    def dense(self) -> Evaluation:
        """The dense network's evaluation; only after its trial completed."""
        evaluation = self.history.trials[DENSE_NUMBER].evaluation
        assert evaluation is not None
        return evaluation

    @property
    def has_roster(self) -> bool:
        """Say whether the dense network is measured, which all searchers start from."""
        return self._roster is not None

    @property
    def roster(self) -> Roster:
        """The searchers; only after the dense network completed."""
        assert self._roster is not None
        return self._roster

    def replay(self, events: Iterable[Event], snapshot: tuple[int, Any] | None = None) -> None:
        """Rebuild the state from the log of earlier sessions.

        A snapshot is the number of the last event that it knows of, and the searchers' state
        after it. Raises `StoreError` where it does not fit them.
        """
        known = snapshot[0] if snapshot else 0
        for event in events:
            is_news = event.seq > known
            is_ask = event.kind in (EventKind.ASKED, EventKind.REPEATED)
            if is_news and is_ask and self.has_roster:
                self.roster.ask_again(event)
            self.apply(event, teach=is_news)
            if snapshot and event.seq == known:
                self._restore(snapshot[1])

    def apply(self, event: Event, *, teach: bool = True) -> None:
        """Take in one committed event; searchers hear of it only where `teach`."""
        self.history.apply(event)
        if event.kind is EventKind.TRAINED:
            self._follow_training(event.body, teach=teach)
        self._count_failures(event)
        if event.trial is None:
            return
        trial = self.history.trials[event.trial]
        if trial.rung == 0 and event.kind in (EventKind.ASKED, EventKind.INFEASIBLE):
            self._spent[trial.searcher] += 1 if event.kind is EventKind.ASKED else -1
        if event.kind is EventKind.ASKED:
            self._policies[trial.rung].add(trial.policy.sha256)
        if event.kind is EventKind.REPEATED and teach:
            self.roster.learn_repetition(event.body["searcher"], trial)
        elif event.kind.name in TrialState.__members__:
            self._conclude(trial)
            if teach and self.has_roster:
                self.roster.learn(trial)

    def count(self, labels: Iterable[str]) -> int:
        """Return how many trials of `labels` at the lowest rung were worth an evaluation."""
        return sum(self._spent[label] for label in labels)

    def completed(self, rung: int) -> Sequence[Trial]:
        """Return the trials of a rung in the order they completed, without the dense network."""
        return self._completed[rung]

    def policies(self, rung: int) -> Set[str]:
        """Return the hashes of the policies that were ever sent to a rung."""
        return self._policies[rung]

    def _conclude(self, trial: Trial) -> None:
        """Bring the fronts up to a trial that has just ended."""
        if trial.state is TrialState.COMPLETED:
            if trial.number == DENSE_NUMBER:
                self.goals = referenced(self.job, self.dense, self.preparation.num_classes)
                known = replace(self._problem, goals=self.goals, dense=self.dense)
                self._roster = Roster(self.job, known)
            else:
                self._completed[trial.rung].append(trial)
            self.forecasts.take(trial)
            if trial.rung not in self.fronts:
                self.fronts[trial.rung] = Front(self.goals, significance=self.job.significance)
            self.fronts[trial.rung].add(trial)

    def _count_failures(self, event: Event) -> None:
        """Count what goes wrong in a row; a session starts anew, whatever ended the last."""
        if event.kind in (EventKind.OPENED, EventKind.COMPLETED):
            self.failures_in_a_row = self.losses_in_a_row = 0
        elif event.kind in (EventKind.FAILED, EventKind.RETRIED):
            self.last_failure = Failure.from_json(event.body["failure"])
            self.failures_in_a_row += event.kind is EventKind.FAILED
            self.losses_in_a_row += self.last_failure.kind.is_blameless

    def _follow_training(self, body: Mapping[str, Any], *, teach: bool) -> None:
        done = TrainingProgress.from_json(body["progress"]) if "progress" in body else None
        self.progress = done if done is not None and not done.is_complete else None
        if teach:
            self.roster.trained(done)

    def _restore(self, state: Any) -> None:
        try:
            self.roster.load_state_dict(state)
        except Exception as error:
            raise StoreError(f"the snapshot does not fit the searchers: {error!r}") from error


def resumed(
    store: Store,
    job: Job,
    preparation: Preparation,
    problem: SearchProblem,
    seeds: Sequence[Policy] = (),
    *,
    key: str | None = None,
) -> JobState:
    """Return the state of a stored job; snapshots that cannot be used are passed over."""
    for snapshot in _candidates(store, key or job.name):
        state = JobState(job, preparation, problem, seeds, key=key)
        try:
            state.replay(store.events(state.key), snapshot)
        except StoreError as error:
            if snapshot is None:
                raise
            _log.warning("%s; an older one, or the log alone, serves instead", error)
            continue
        return state
    raise AssertionError("the log alone is always a candidate")


def _candidates(store: Store, job: str) -> Iterator[tuple[int, Any] | None]:
    """Yield the readable snapshots, newest first, and None for the log alone."""
    for seq, body in store.snapshots(job):
        try:
            yield seq, unpack(body)
        except StoreError as error:
            _log.warning("%s; an older one, or the log alone, serves instead", error)
    yield None
