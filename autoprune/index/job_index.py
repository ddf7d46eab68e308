"""A job's log in memory: its fronts as of every event, what was measured, and where it stands.

    index = JobIndex(job, num_classes)
    for outline in store.outline(name, index.last_seq, bodies=JobIndex.BODIES):
        index.apply(outline)
    index.front().table.members           # numbers of trials, as `Run.front` has them
    index.front(120)                      # … as of event 120
    index.changes(after=120)              # … who came and who left since

It holds a few numbers per trial and no policies; `autoprune.index.trials` reads whole trials
where somebody wants to see them. It is not made for several threads at once: who shares it
keeps others out while one applies or asks. What it returns never changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.contracts.store import EventKind, Outline
from autoprune.errors import InputError, RunError, StoreError, suggestion
from autoprune.front_table import FrontTable, signs, standard_errors
from autoprune.index.evaluations import Evaluations, Split
from autoprune.index.lives import Lives, TrialOutline
from autoprune.index.timeline import Timeline
from autoprune.job.spec import Job
from autoprune.metrics import goals_of, referenced
from autoprune.store.sessions import Sessions
from autoprune.trial import Evaluation, TrialState

_DENSE = 0
_TABLES = 16  # fronts that are remembered: watchers ask for the same ones again and again


@dataclass(frozen=True, slots=True)
class FrontView:
    """The front as of the event `sequence`."""

    sequence: int
    table: FrontTable


@dataclass(frozen=True, slots=True)
class FrontChange:
    """How members of the front changed up to the event `sequence`, and its hypervolume then.

    `added` (n,) int64 are numbers in the order of the front, `removed` (m,) in their own.
    """

    sequence: int
    added: np.ndarray
    removed: np.ndarray
    hypervolume: float | None


class JobIndex:
    """What can be asked of a job without reading its log again.

    Where a method takes a `sequence`, the answer is the one that stood after that event; None
    means the newest. It raises `InputError` for one that is yet to come, or below 0. A method
    that takes numbers of trials raises `RunError` where there is no such trial.
    """

    BODIES: ClassVar = (EventKind.CLOSED, EventKind.COMPLETED, EventKind.REPORTED)
    """Kinds of events that are needed with their bodies."""

    def __init__(self, job: Job, num_classes: int) -> None:
        self.job = job
        self.last_seq = 0
        self.sessions = Sessions()
        self._num_classes = num_classes
        self._goals = goals_of(job)
        self._signs = {goal.name: goal.loss(1.0) for goal in self._goals}
        self._referenced: tuple[int, tuple[Goal, ...]] | None = None  # since that event
        self._lives = Lives()
        self._evaluations = Evaluations()
        self._timeline = Timeline(len(self._goals))
        self._tables: dict[tuple[int, bool], FrontTable] = {}

    def apply(self, outline: Outline) -> None:
        """Take in the next event; raises `StoreError` if it cannot follow."""
        seq, kind = outline.seq, outline.kind
        if seq != self.last_seq + 1:
            raise StoreError(f"the log has event {seq} after {self.last_seq}: a gap")
        self._lives.follow(outline)
        self.sessions.follow(seq, outline.time, kind, outline.body)
        if kind is EventKind.COMPLETED:
            self._complete(outline)
        elif kind is EventKind.REPORTED:
            number, evaluation = _judged(outline)
            self._evaluations.report(seq, number, evaluation)
        self.last_seq = seq

    def __len__(self) -> int:
        """How many trials were asked, the dense network included."""
        return len(self._lives)

    @property
    def states(self) -> dict[TrialState, int]:
        """How many trials are in each state; states without any are left out."""
        return self._lives.counts()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of everything that was measured of completed trials."""
        return self._evaluations.metrics

    def goals(self, sequence: int | None = None) -> tuple[Goal, ...]:
        """Return the objectives, with reference points once the dense network is measured."""
        seq = self._checked(sequence)
        if self._referenced is None or seq < self._referenced[0]:
            return self._goals
        return self._referenced[1]

    def front(self, sequence: int | None = None) -> FrontView:
        """Return the front of the highest rung, as `Run.front` has it."""
        seq = self._checked(sequence)
        goals = self.goals(seq)
        turn = self._timeline.turn(seq), goals is self._goals
        if turn not in self._tables:
            if len(self._tables) == _TABLES:
                del self._tables[next(iter(self._tables))]  # the oldest
            self._tables[turn] = self._table(self._timeline.at(seq), goals)
        return FrontView(seq, self._tables[turn])

    def changes(self, after: int) -> FrontChange:
        """Return what changed on the front since the event `after`; 0: everybody is new."""
        before, now = self.front(after).table, self.front()
        members = now.table.members
        return FrontChange(
            now.sequence,
            members[np.isin(members, before.members, invert=True)],
            np.setdiff1d(before.members, members),
            now.table.hypervolume,
        )

    def dominators(self, number: int) -> list[int]:
        """Return the members that are as good as a trial in everything and better in something.

        By the search split, and best first; nothing dominates a trial that has not completed.
        """
        self._require(number)
        if self._lives.state(number) is not TrialState.COMPLETED:
            return []
        members = self.front().table.members
        own, losses = self._losses(np.array([number])), self._losses(members)
        is_better = (losses <= own).all(axis=1) & (losses != own).any(axis=1)
        dominating: list[int] = members[is_better].tolist()
        return dominating

    def numbers(self, states: Collection[TrialState] = ()) -> np.ndarray:
        """Return the numbers (n,) of the trials in one of `states`, of all where there is none."""
        return self._lives.numbers(states or tuple(TrialState))

    def completed(self, sequence: int | None = None) -> np.ndarray:
        """Return the numbers (n,) of the completed trials, the dense network included."""
        return self._lives.completed(self._checked(sequence))

    def values(
        self, metric: str, numbers: Sequence[int] | np.ndarray, sequence: int | None = None
    ) -> np.ndarray:
        """Return the values (n,) of a metric that people see; NaN where it was not measured."""
        if sequence is not None and sequence != self.last_seq:
            return self.measured(metric, numbers, sequence)[:, 0]
        return self._evaluations.shown(metric, self._wanted(metric, numbers))

    def measured(
        self,
        metric: str,
        numbers: Sequence[int] | np.ndarray,
        sequence: int | None = None,
        *,
        split: Split = "shown",
    ) -> np.ndarray:
        """Return value, low and high (n, 3) of a metric of trials; NaN for what is not known.

        Raises `InputError` for a metric that was never measured.
        """
        wanted = self._wanted(metric, numbers)
        return self._evaluations.measured(metric, wanted, self._checked(sequence), split)

    def outline(self, number: int) -> TrialOutline:
        """Return what is known of a trial besides its values."""
        self._require(number)
        return self._lives.outline(number)

    def reported(self, numbers: Sequence[int]) -> list[int]:
        """Return the events that last told of trials on the report split; 0 where none has."""
        return self._lives.reported(numbers)

    def children(self, number: int) -> list[int]:
        """Return the trials of the rung above that a trial was promoted to."""
        self._require(number)
        return self._lives.children(number)

    def _wanted(self, metric: str, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return numbers of trials (n,) as an array; raises what `measured` does."""
        if metric not in self.metrics:
            raise InputError(f"unknown metric {metric!r}; {suggestion(metric, self.metrics)}")
        wanted = np.asarray(numbers, dtype=np.int64)
        if len(wanted):
            self._require(int(wanted.min()), int(wanted.max()))
        return wanted

    def _complete(self, outline: Outline) -> None:
        number, evaluation = _judged(outline)
        self._evaluations.complete(outline.seq, number, evaluation)
        found = evaluation["measurements"]
        losses = [sign * found[name][0] for name, sign in self._signs.items()]
        is_able = not evaluation["violations"]  # and finite, as everything in a log
        rung = self._lives.rung(number)
        self._timeline.complete(outline.seq, number, rung, losses if is_able else None)
        if number == _DENSE:
            dense = Evaluation.from_json(evaluation)
            self._referenced = outline.seq, referenced(self.job, dense, self._num_classes)

    def _table(self, numbers: np.ndarray, goals: tuple[Goal, ...]) -> FrontTable:
        """Return the front among non-dominated trials."""
        significance, errors = self.job.significance, None
        if significance is not None:
            errors = standard_errors(self._searched(numbers)[:, :, 1:])
        misses = self._evaluations.misses(numbers)
        return FrontTable(goals, numbers, self._losses(numbers), misses, significance, errors)

    def _losses(self, numbers: np.ndarray) -> np.ndarray:
        """Return the losses (n, goals) of completed trials."""
        losses: np.ndarray = self._searched(numbers)[:, :, 0] * signs(self._goals)
        return losses

    def _searched(self, numbers: np.ndarray) -> np.ndarray:
        """Return value, low and high (n, goals, 3) of the objectives on the search split."""
        found = self._evaluations.measured
        each = [found(goal.name, numbers, self.last_seq, "search") for goal in self._goals]
        return np.stack(each, axis=1)

    def _checked(self, sequence: int | None) -> int:
        if sequence is None:
            return self.last_seq
        if not 0 <= sequence <= self.last_seq:
            raise InputError(
                f"{self.job.name} has no event {sequence}: the newest is {self.last_seq}"
            )
        return sequence

    def _require(self, *numbers: int) -> None:
        for number in numbers:
            if not 0 <= number < len(self._lives):
                raise RunError(
                    f"trial {number} of {self.job.name} does not exist; trials are numbered from "
                    "0 in the order of asking"
                )


def _judged(outline: Outline) -> tuple[int, Mapping[str, Any]]:
    """Return the trial and the evaluation of COMPLETED or REPORTED."""
    assert outline.trial is not None, f"event {outline.seq} names no trial"
    assert outline.body is not None, f"event {outline.seq} was read without its body"
    return outline.trial, outline.body["evaluation"]
