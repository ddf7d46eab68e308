"""The front: completed trials that no other one beats, kept while results come in.

front = Front(goals)
front.add(trial)                      # True if nothing beats it so far
front.hypervolume()                   # share of the reference box, in [0, 1]
front.knee()                          # the trial with the best trade-off
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.dominance import NonDominated
from autoprune.errors import InputError
from autoprune.front_table import FrontTable, standard_errors
from autoprune.trial import Evaluation, Trial, TrialState


class Front:
    """The non-dominated trials under `goals`, one objective or many.

    Only COMPLETED trials without broken constraints and with finite values enter. Of
    trials with equal values the one with the lowest number stays, whatever the order of
    arrival. With `use_report` trials are judged by their values on the report split.

    With `significance` α noise does not fill the front. Two values differ significantly where
    they are further apart than z(1 - α/2) standard errors of their difference, which the 95 %
    intervals give; values without an interval differ where they are not equal. A trial beats
    another one if it is significantly worse in nothing and significantly better in something.
    Of the non-dominated trials those that none beats are members, what they beat is left out,
    and so on with the rest. So a member beats every trial that is left out, and no member
    beats another one, unless trials beat each other in a circle: then the one that the fewest
    of the rest beat (of several the one with the lowest number) is the next member.
    """

    def __init__(
        self,
        goals: Sequence[Goal],
        *,
        use_report: bool = False,
        significance: float | None = None,
    ) -> None:
        if significance is not None and not 0.0 < significance < 1.0:
            raise InputError(f"significance must lie between 0 and 1, given: {significance}")
        self.goals = tuple(goals)
        self._use_report = use_report
        self._significance = significance
        self._trials: dict[int, Trial] = {}  # by keys in the order of their numbers
        self._known = NonDominated(len(self.goals))
        self._table: FrontTable | None = None
        self._count = 0

    @classmethod
    def of(
        cls,
        trials: Iterable[Trial],
        goals: Sequence[Goal],
        *,
        use_report: bool = False,
        significance: float | None = None,
    ) -> Self:
        """Return the front of `trials`, faster than by adding one after the other."""
        front = cls(goals, use_report=use_report, significance=significance)
        able = [(x, losses) for x in trials if (losses := front._losses(x)) is not None]
        keys = [front._key(trial) for trial, _ in able]
        numbers = np.array(keys, dtype=np.int64)
        table = np.array([losses for _, losses in able]).reshape(len(able), len(front.goals))
        front._known = NonDominated.of(numbers, table)
        by_key = {key: trial for key, (trial, _) in zip(keys, able, strict=True)}
        front._trials = {key: by_key[key] for key in front._known.numbers.tolist()}
        return front

    @property
    def members(self) -> list[Trial]:
        """The trials of the front, best by the first objective first."""
        return [self._trials[number] for number in self._now().members.tolist()]

    @property
    def reference_point(self) -> tuple[float | None, ...]:
        """The worst value of interest of every objective, in its unit."""
        return tuple(goal.reference for goal in self.goals)

    def add(self, trial: Trial) -> bool:
        """Take in a trial, in time linear in the front; say whether none dominates it so far."""
        losses = self._losses(trial)
        key = self._key(trial)
        left = None if losses is None else self._known.add(key, losses)
        if left is None:
            return False
        for gone in left:
            del self._trials[gone]
        self._trials[key] = trial
        self._table = None
        return True

    def hypervolume(self) -> float | None:
        """Return the share of the box between ideal and reference point that is dominated.

        Each objective is divided by its reference, so that the box is [0, 1]^m: 0 is the
        ideal of a minimised objective. For a maximised one the reference is the value to
        surpass and twice the reference is the ideal. Trials beyond the reference count
        nothing. None while a reference is unknown or not above zero.

        All non-dominated trials count, also with a significance: so it never shrinks while
        trials come in. Up to five objectives it is exact (4 ms for 500 trials); of six and more,
        where that takes minutes, it is approximated along directions that are always the same,
        which never shrinks either (tried with 6 to 10 objectives: off by less than 0.003).
        """
        return self._now().hypervolume

    def knee(self) -> Trial:
        """Return the member farthest below the plane through the extremes.

        After scaling every objective to [0, 1] over the front, that is the member with the
        smallest sum (Das, 1999: for two objectives, the largest distance to the line through
        the end points). Ties go to the lowest trial number. As with every pick, only members
        that miss no soft constraint count where there are any.
        """
        return self._trials[self._now().knee()]

    def best(self, metric: str) -> Trial:
        """Return the member that is best in one objective; ties by the others, in order."""
        return self._trials[self._now().best(metric)]

    def weighted(self, weights: Mapping[str, float]) -> Trial:
        """Return the member with the smallest weighted sum of scaled objectives.

        Each objective is scaled to [0, 1] over the front; unnamed ones weigh nothing.
        """
        return self._trials[self._now().weighted(weights)]

    def _key(self, trial: Trial) -> int:
        """Return a number of its own for a trial: searchers may tell several of one number."""
        self._count += 1
        return (trial.number << 20) + self._count % 2**20

    def _now(self) -> FrontTable:
        """Return the front as it stands, in numbers."""
        if self._table is None:
            judged = [self._judged(self._trials[x]) for x in self._known.numbers.tolist()]
            self._table = FrontTable(
                self.goals,
                self._known.numbers.copy(),
                self._known.losses.copy(),
                np.array([bool(each.misses) for each in judged], dtype=bool),
                self._significance,
                None if self._significance is None else self._errors(judged),
            )
        return self._table

    def _errors(self, judged: Sequence[Evaluation]) -> np.ndarray:
        """Return the standard errors of evaluations, shape (n, goals)."""
        rows = [[each.measurements[goal.name] for goal in self.goals] for each in judged]
        ends = np.array([[(x.low, x.high) for x in row] for row in rows], dtype=float)
        return standard_errors(ends.reshape(len(judged), len(self.goals), 2))

    def _judged(self, trial: Trial) -> Evaluation:
        evaluation = trial.report if self._use_report else trial.evaluation
        assert evaluation is not None, f"trial {trial.number} has no evaluation"
        return evaluation

    def _losses(self, trial: Trial) -> list[float] | None:
        """Return the losses of a trial, None for one that cannot enter."""
        evaluation = trial.report if self._use_report else trial.evaluation
        if trial.state is not TrialState.COMPLETED or evaluation is None:
            return None
        if not evaluation.is_feasible:
            return None
        losses = [goal.loss(evaluation.value(goal.name)) for goal in self.goals]
        return losses if all(map(math.isfinite, losses)) else None
