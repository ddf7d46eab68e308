"""What a job does next: the dense network, baselines, proposals, promotions, the report."""

from __future__ import annotations

import time
from collections.abc import Iterator

from autoprune.contracts.store import Entry
from autoprune.contracts.training import TrainingRequest
from autoprune.controller.progress import Progress
from autoprune.controller.promotion import judged, promotable
from autoprune.controller.roster import (
    DENSE,
    WARM_START,
    baseline_labels,
    labels_of,
    search_labels,
)
from autoprune.controller.state import DENSE_NUMBER, JobState
from autoprune.controller.teaching import teacher_of
from autoprune.fidelity import policy_at
from autoprune.front import Front
from autoprune.metrics import cheap_measurements, constrained
from autoprune.policy import Policy
from autoprune.store import entries
from autoprune.trial import Evaluation, Trial, TrialState

# So many failed trials in a row, and none completed, mean that something else is wrong.
STALL_AFTER = 10
# The same for attempts that were lost through no fault of the trial.
STALL_AFTER_LOSSES = 30


class Agenda:
    """Turns the state of a job into the next entries to commit; empty lists mean "not now".

    `to_report` counts the trials that the report split still has to measure, once the
    search has come that far.
    """

    def __init__(self, state: JobState) -> None:
        self.state = state
        self.job = state.job
        self._elapsed_before_s = state.history.elapsed_s
        self._started = time.monotonic()
        self.to_report: int | None = None
        self._ranked: dict[int, tuple[int, list[Trial]]] = {}

    @property
    def elapsed_s(self) -> float:
        """Seconds that all sessions of the job have worked so far."""
        return self._elapsed_before_s + time.monotonic() - self._started

    @property
    def searched(self) -> int:
        """Trials that count against the budget: those of the searchers, and warm starts."""
        return self.state.count([*search_labels(self.job), WARM_START])

    def progress(self, trouble: str | None = None) -> Progress:
        """Return how far the search has come."""
        state, budget = self.state, self.job.budget
        to_do = None
        if budget.trials is not None and state.has_roster:
            baselines = sum(
                max(0, self.job.baselines.trials - state.count([label]))
                for label in baseline_labels(self.job)
                if not state.roster.members[label].is_retired
            )
            to_do = max(0, budget.trials - self.searched) + baselines
        minutes = budget.minutes
        seconds_left = None if minutes is None else max(0.0, 60 * minutes - self.elapsed_s)
        front = state.front
        return Progress(
            done=len(state.completed(0)),
            to_do=to_do,
            seconds_left=seconds_left,
            front=len(front.members),
            hypervolume=front.hypervolume() if front.members else None,
            to_report=self.to_report,
            trouble=trouble,
        )

    @property
    def is_budget_spent(self) -> bool:
        """Say whether the searchers may not propose any more."""
        trials, minutes = self.job.budget.trials, self.job.budget.minutes
        out_of_trials = trials is not None and self.searched >= trials
        return out_of_trials or (minutes is not None and self.elapsed_s >= 60 * minutes)

    @property
    def is_stalled(self) -> bool:
        """Say whether so many trials failed in a row that going on makes no sense."""
        return self.stall is not None

    @property
    def stall(self) -> str | None:
        """Why going on makes no sense: failures in a row, none of their trials completed."""
        state = self.state
        if state.failures_in_a_row >= STALL_AFTER:
            what = f"{state.failures_in_a_row} trials failed in a row"
        elif state.losses_in_a_row >= STALL_AFTER_LOSSES:
            what = f"workers were lost {state.losses_in_a_row} times in a row"
        else:
            return None
        return f"{what}, the last one with {state.last_failure}"

    def dense(self) -> list[Entry]:
        """Return the dense network's trial, once."""
        if self.state.history.trials:
            return []
        return [entries.asked(DENSE_NUMBER, Policy(), DENSE, rung=0, parent=None, batch=0)]

    def next(self) -> list[Entry]:
        """Return the entries of a promotion or of one proposal."""
        if self.is_stalled or self._is_out_of_time:
            return []
        for rung in range(len(self.job.rungs) - 1):
            above = self.state.policies(rung + 1)
            waiting = (each for each in self._best(rung) if each.policy.sha256 not in above)
            if (chosen := next(waiting, None)) is not None:
                return [self._promotion(chosen)]
        if seed := self._seed():
            return seed
        for label in self._proposers():
            found = self.state.roster.ask(label)
            if found is not None:
                return self._proposal(*found)
        return []

    def training(self) -> TrainingRequest | None:
        """Return what a searcher wants to be trained, while there is a budget to use it."""
        if self.is_stalled or self.is_budget_spent:
            return None
        return self.state.roster.training

    def final_promotion(self, rung: int) -> list[Entry]:
        """Return the next promotion of a rung's front, so that the last rung judges it all."""
        if self.is_stalled or self._is_out_of_time or rung not in self.state.fronts:
            return []
        above = self.state.policies(rung + 1)
        rest = [x for x in self.state.fronts[rung].members if x.policy.sha256 not in above]
        return [self._promotion(rest[0])] if rest else []

    def unreported(self) -> list[Trial]:
        """Return what the report split must still measure: dense, and everybody's front."""
        state = self.state
        highest = max(state.fronts)
        chosen = {DENSE_NUMBER} | {trial.number for trial in state.front.members}
        for label in (*labels_of(self.job), WARM_START):
            own = [trial for trial in state.completed(highest) if trial.searcher == label]
            front = Front.of(own, state.goals, significance=self.job.significance)
            chosen |= {trial.number for trial in front.members}
        # A front holds its trials as they completed; of reports only the history knows.
        trials = [state.history.trials[number] for number in sorted(chosen)]
        return [trial for trial in trials if trial.report is None]

    @property
    def _is_out_of_time(self) -> bool:
        minutes = self.job.budget.minutes
        return minutes is not None and self.elapsed_s >= 60 * minutes

    def _best(self, rung: int) -> list[Trial]:
        """Return the best of a rung, found anew as soon as it has grown by a few per cent.

        By which trials, follows from the log: a resumed search must choose the same.
        """
        completed = self.state.completed(rung)
        count = judged(len(completed))
        if self._ranked.get(rung, (0, []))[0] != count:
            best = promotable(completed[:count], self.state.goals, self.job.promote_one_in)
            self._ranked[rung] = (count, best)
        return self._ranked[rung][1] if count else []

    def _promotion(self, trial: Trial) -> Entry:
        return entries.asked(
            self.state.history.next_number,
            trial.policy,
            trial.searcher,
            rung=trial.rung + 1,
            parent=trial.number,
            batch=self.state.history.last_seq,
            teacher=teacher_of(self.state, trial.policy, trial.rung + 1),
        )

    def _proposers(self) -> Iterator[str]:
        """Yield the labels that may be asked now, the next in turn first."""
        members = self.state.roster.members
        for label in baseline_labels(self.job):
            is_due = self.state.count([label]) < self.job.baselines.trials
            if is_due and not members[label].is_retired:
                yield label
        head = self.state.roster.head
        if not self.is_budget_spent and not members[head].is_retired:
            yield head

    def _seed(self) -> list[Entry]:
        """Return the proposal of the next policy that an earlier run hands down."""
        if self.is_budget_spent:
            return []
        known = self.state.history.known
        fresh = (each for each in self.state.seeds if known(each.sha256, 0) is None)
        policy = next(fresh, None)
        return [] if policy is None else self._proposal(WARM_START, policy)

    def _proposal(self, label: str, policy: Policy) -> list[Entry]:
        history = self.state.history
        known = history.known(policy.sha256, 0)
        if known is not None:
            return [entries.repeated(known.number, policy, label, batch=history.last_seq)]
        number = history.next_number
        asked = entries.asked(
            number,
            policy,
            label,
            rung=0,
            parent=None,
            batch=history.last_seq,
            teacher=teacher_of(self.state, policy, 0),
        )
        graph = self.state.preparation.graph
        costs = graph.costs.costs(policy_at(self.job, graph.groups, policy, 0))
        dense = self.state.dense.measurements
        cheap = cheap_measurements(self.state.metrics, costs)
        likely = constrained(self.job, Evaluation(cheap), dense)
        if likely.is_feasible:
            predicted = self.state.forecasts.favourable(self.job, policy)
            likely = constrained(self.job, Evaluation({**cheap, **predicted}), dense)
        return [asked] if likely.is_feasible else [asked, entries.infeasible(number, likely)]


def is_open(trial: Trial) -> bool:
    """Say whether a trial still has to be run."""
    return trial.state in (TrialState.WAITING, TrialState.RUNNING)
