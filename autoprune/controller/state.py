"""The state of a running job: everything that follows from its log.

`apply` takes one committed event and brings history, searchers and fronts up to it. A
resumed job is rebuilt by `replay`, which makes the searchers' calls again in the order of
the log and applies each event the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from autoprune.contracts.searcher import SearchProblem
from autoprune.contracts.store import Event, EventKind
from autoprune.controller.roster import Roster
from autoprune.evaluation.preparation import Preparation
from autoprune.front import Front
from autoprune.job.spec import Job
from autoprune.metrics import goals_of, metrics_of, referenced
from autoprune.store.history import History
from autoprune.trial import Evaluation, Trial, TrialState

DENSE_NUMBER = 0


class JobState:
    """History, searchers and fronts of one job."""

    def __init__(self, job: Job, preparation: Preparation, problem: SearchProblem) -> None:
        self.job = job
        self.preparation = preparation
        self.metrics = metrics_of(job)
        self.goals = goals_of(job)
        self.history = History()
        self.roster = Roster(job, problem)
        self.fronts: dict[int, Front] = {}
        self.failures_in_a_row = 0
        self._spent: Counter[str] = Counter()

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

    def replay(self, events: Iterable[Event]) -> None:
        """Rebuild the state from the log of earlier sessions."""
        for event in events:
            if event.kind in (EventKind.ASKED, EventKind.REPEATED):
                self.roster.ask_again(event)
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take in one committed event."""
        self.history.apply(event)
        if event.trial is None:
            return
        trial = self.history.trials[event.trial]
        if trial.rung == 0 and event.kind in (EventKind.ASKED, EventKind.INFEASIBLE):
            self._spent[trial.searcher] += 1 if event.kind is EventKind.ASKED else -1
        if event.kind is EventKind.REPEATED:
            self.roster.learn_repetition(event.body["searcher"], trial)
        elif event.kind.name in TrialState.__members__:
            self._conclude(trial)

    def count(self, labels: Iterable[str]) -> int:
        """Return how many trials of `labels` at the lowest rung were worth an evaluation."""
        return sum(self._spent[label] for label in labels)

    def completed(self, rung: int) -> list[Trial]:
        """Return the completed trials of a rung, the dense network left out."""
        return [
            trial
            for trial in self.history.trials.values()
            if trial.rung == rung
            and trial.state is TrialState.COMPLETED
            and trial.number != DENSE_NUMBER
        ]

    def policies(self, rung: int) -> set[str]:
        """Return the hashes of the policies that were ever sent to a rung."""
        return {trial.policy.sha256 for trial in self.history.trials.values() if trial.rung == rung}

    def _conclude(self, trial: Trial) -> None:
        """Let fronts and searchers know of a trial that has just ended."""
        if trial.state is TrialState.COMPLETED:
            self.failures_in_a_row = 0
            if trial.number == DENSE_NUMBER:
                self.goals = referenced(self.job, self.dense, self.preparation.num_classes)
            front = self.fronts.setdefault(trial.rung, Front(self.goals))
            front.add(trial)
        elif trial.state is TrialState.FAILED:
            self.failures_in_a_row += 1
        self.roster.learn(trial)
