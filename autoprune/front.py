"""The front: completed trials that no other one beats, kept while results come in.

front = Front(goals)
front.add(trial)                      # True if nothing beats it so far
front.hypervolume()                   # share of the reference box, in [0, 1]
front.knee()                          # the trial with the best trade-off
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.errors import InputError, suggestion
from autoprune.trial import Evaluation, Trial, TrialState


class Front:
    """The non-dominated trials under `goals`, one objective or many.

    Only COMPLETED trials without broken constraints and with finite values enter. Of
    trials with equal values the one with the lowest number stays, whatever the order of
    arrival. With `use_report` trials are judged by their values on the report split.
    """

    def __init__(self, goals: Sequence[Goal], *, use_report: bool = False) -> None:
        self.goals = tuple(goals)
        self._use_report = use_report
        self._trials: list[Trial] = []
        self._losses = np.empty((0, len(self.goals)))
        self._hypervolume: float | None = None

    @classmethod
    def of(
        cls, trials: Iterable[Trial], goals: Sequence[Goal], *, use_report: bool = False
    ) -> Self:
        """Return the front of `trials`."""
        front = cls(goals, use_report=use_report)
        for trial in trials:
            front.add(trial)
        return front

    @property
    def members(self) -> list[Trial]:
        """The trials of the front, best by the first objective first."""
        order = np.lexsort(([x.number for x in self._trials], *self._losses.T[::-1]))
        return [self._trials[index] for index in order]

    @property
    def reference_point(self) -> tuple[float | None, ...]:
        """The worst value of interest of every objective, in its unit."""
        return tuple(goal.reference for goal in self.goals)

    def add(self, trial: Trial) -> bool:
        """Take in a trial, in time linear in the front; say whether it stands on it now."""
        evaluation = trial.report if self._use_report else trial.evaluation
        losses = self._loss(trial, evaluation)
        if losses is None:
            return False
        no_worse = (self._losses <= losses).all(axis=1)
        if no_worse.any():
            return self._take_equal(trial, np.flatnonzero(no_worse), losses)
        stays = np.logical_not((losses <= self._losses).all(axis=1))
        self._trials = [x for x, stay in zip(self._trials, stays, strict=True) if stay]
        self._trials.append(trial)
        self._losses = np.vstack([self._losses[stays], losses])
        self._hypervolume = None
        return True

    def hypervolume(self) -> float | None:
        """Return the share of the box between ideal and reference point that is dominated.

        Each objective is divided by its reference, so that the box is [0, 1]^m: 0 is the
        ideal of a minimised objective. For a maximised one the reference is the value to
        surpass and twice the reference is the ideal. Trials beyond the reference count
        nothing. None while a reference is unknown or not above zero.
        """
        references = [goal.reference for goal in self.goals]
        if any(reference is None or reference <= 0 for reference in references):
            return None  # no box: not measured yet, or the dense network is already ideal
        if self._hypervolume is None:
            self._hypervolume = self._dominated_share(np.array(references, dtype=float))
        return self._hypervolume

    def knee(self) -> Trial:
        """Return the member farthest below the plane through the extremes.

        After scaling every objective to [0, 1] over the front, that is the member with the
        smallest sum (Das, 1999: for two objectives, the largest distance to the line through
        the end points). Ties go to the lowest trial number.
        """
        return self.weighted({goal.name: 1.0 for goal in self.goals})

    def best(self, metric: str) -> Trial:
        """Return the member that is best in one objective; ties by the others, in order."""
        self._require_members()
        index = self._index(metric)
        first = self._losses[:, index]
        keys = ([x.number for x in self._trials], *self._losses.T[::-1], first)
        return self._trials[int(np.lexsort(keys)[0])]

    def weighted(self, weights: Mapping[str, float]) -> Trial:
        """Return the member with the smallest weighted sum of scaled objectives.

        Each objective is scaled to [0, 1] over the front; unnamed ones weigh nothing.
        """
        self._require_members()
        vector = np.zeros(len(self.goals))
        for metric, weight in weights.items():
            if not 0.0 <= weight < float("inf"):
                raise InputError(f"the weight of {metric!r} must be 0 or more, given: {weight}")
            vector[self._index(metric)] = weight
        if not vector.any():
            raise InputError("at least one weight must be above 0")
        low, high = self._losses.min(axis=0), self._losses.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        sums = ((self._losses - low) / span) @ vector
        return self._trials[int(np.lexsort(([x.number for x in self._trials], sums))[0])]

    def _require_members(self) -> None:
        if not self._trials:
            raise InputError("the front is empty: no feasible trial has completed yet")

    def _loss(self, trial: Trial, evaluation: Evaluation | None) -> np.ndarray | None:
        if trial.state is not TrialState.COMPLETED or evaluation is None:
            return None
        if not evaluation.is_feasible:
            return None
        losses = np.array([goal.loss(evaluation.value(goal.name)) for goal in self.goals])
        return losses if np.isfinite(losses).all() else None

    def _take_equal(self, trial: Trial, better: np.ndarray, losses: np.ndarray) -> bool:
        """Swap in a trial that equals a member and has the lower number."""
        index = int(better[0])
        is_equal = bool((self._losses[index] == losses).all())
        if not is_equal or self._trials[index].number <= trial.number:
            return False
        self._trials[index] = trial
        return True

    def _dominated_share(self, references: np.ndarray) -> float:
        signs = np.array([goal.loss(1.0) for goal in self.goals])
        scaled = self._losses / np.abs(references)
        # A maximised objective is worth its excess over the reference, at most one of it.
        scaled = np.where(signs < 0, scaled + 2.0, scaled)
        inside = np.clip(scaled[(scaled < 1.0).all(axis=1)], 0.0, 1.0)
        if len(inside) == 0:
            return 0.0
        import moocore  # slow to import, and needed by nobody who only reads the front

        return float(moocore.hypervolume(inside, ref=np.ones(len(self.goals))))

    def _index(self, metric: str) -> int:
        names = [goal.name for goal in self.goals]
        if metric not in names:
            raise InputError(f"{metric!r} is no objective of this job; {suggestion(metric, names)}")
        return names.index(metric)
