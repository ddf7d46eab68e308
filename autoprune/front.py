"""The front: completed trials that no other one beats, kept while results come in.

front = Front(goals)
front.add(trial)                      # True if nothing beats it so far
front.hypervolume()                   # share of the reference box, in [0, 1]
front.knee()                          # the trial with the best trade-off
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Self

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.errors import InputError, suggestion
from autoprune.trial import Evaluation, Measurement, Trial, TrialState

_NORMAL = NormalDist()
# Half a 95 % interval in standard errors.
_HALF = _NORMAL.inv_cdf(0.975)
_EXACT_GOALS = 5
_DIRECTIONS = 2**16


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
        self._trials: list[Trial] = []
        self._losses = np.empty((0, len(self.goals)))
        self._standing: np.ndarray | None = None
        self._hypervolume: float | None = None

    @classmethod
    def of(
        cls,
        trials: Iterable[Trial],
        goals: Sequence[Goal],
        *,
        use_report: bool = False,
        significance: float | None = None,
    ) -> Self:
        """Return the front of `trials`."""
        front = cls(goals, use_report=use_report, significance=significance)
        for trial in trials:
            front.add(trial)
        return front

    @property
    def members(self) -> list[Trial]:
        """The trials of the front, best by the first objective first."""
        places = self._members()
        order = np.lexsort((self._numbers(places), *self._losses[places].T[::-1]))
        return [self._trials[place] for place in places[order]]

    @property
    def reference_point(self) -> tuple[float | None, ...]:
        """The worst value of interest of every objective, in its unit."""
        return tuple(goal.reference for goal in self.goals)

    def add(self, trial: Trial) -> bool:
        """Take in a trial, in time linear in the front; say whether none dominates it so far."""
        losses = self._loss(trial)
        if losses is None:
            return False
        no_worse = (self._losses <= losses).all(axis=1)
        if no_worse.any():
            return self._take_equal(trial, np.flatnonzero(no_worse), losses)
        stays = np.logical_not((losses <= self._losses).all(axis=1))
        self._trials = [x for x, stay in zip(self._trials, stays, strict=True) if stay]
        self._trials.append(trial)
        self._losses = np.vstack([self._losses[stays], losses])
        self._standing = self._hypervolume = None
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
        the end points). Ties go to the lowest trial number. As with every pick, only members
        that miss no soft constraint count where there are any.
        """
        return self.weighted({goal.name: 1.0 for goal in self.goals})

    def best(self, metric: str) -> Trial:
        """Return the member that is best in one objective; ties by the others, in order."""
        places = self._choices()
        losses = self._losses[places]
        keys = (self._numbers(places), *losses.T[::-1], losses[:, self._index(metric)])
        first = places[np.lexsort(keys)[0]]
        return self._trials[int(first)]

    def weighted(self, weights: Mapping[str, float]) -> Trial:
        """Return the member with the smallest weighted sum of scaled objectives.

        Each objective is scaled to [0, 1] over the front; unnamed ones weigh nothing.
        """
        places = self._choices()
        vector = np.zeros(len(self.goals))
        for metric, weight in weights.items():
            if not 0.0 <= weight < float("inf"):
                raise InputError(f"the weight of {metric!r} must be 0 or more, given: {weight}")
            vector[self._index(metric)] = weight
        if not vector.any():
            raise InputError("at least one weight must be above 0")
        losses = self._losses[places]
        low, high = losses.min(axis=0), losses.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        sums = ((losses - low) / span) @ vector
        first = places[np.lexsort((self._numbers(places), sums))[0]]
        return self._trials[int(first)]

    def _choices(self) -> np.ndarray:
        """Return the places of the members to pick from; raises `InputError` without any."""
        places = self._members()
        if not len(places):
            raise InputError("the front is empty: no feasible trial has completed yet")
        is_kept = np.array([not self._judged(self._trials[place]).misses for place in places])
        return places[is_kept] if is_kept.any() else places

    def _members(self) -> np.ndarray:
        """Return the places of the members."""
        if self._significance is None:
            return np.arange(len(self._trials))
        if self._standing is None:
            z = _NORMAL.inv_cdf(1.0 - self._significance / 2.0)
            errors = np.array([self._standard_errors(trial) for trial in self._trials])
            beats = _beats(self._losses, z * errors.reshape(self._losses.shape))
            self._standing = _standing(beats, self._numbers(range(len(beats))))
        return self._standing

    def _numbers(self, places: Iterable[int]) -> np.ndarray:
        return np.array([self._trials[place].number for place in places])

    def _judged(self, trial: Trial) -> Evaluation:
        evaluation = trial.report if self._use_report else trial.evaluation
        assert evaluation is not None, f"trial {trial.number} has no evaluation"
        return evaluation

    def _standard_errors(self, trial: Trial) -> list[float]:
        """Return the standard error of every objective; 0.0 where there is no interval."""
        measurements = self._judged(trial).measurements
        return [_standard_error(measurements[goal.name]) for goal in self.goals]

    def _loss(self, trial: Trial) -> np.ndarray | None:
        evaluation = trial.report if self._use_report else trial.evaluation
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
        self._standing = None
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

        corner = np.ones(len(self.goals))
        if len(corner) <= _EXACT_GOALS:
            return float(moocore.hypervolume(inside, ref=corner))
        return min(1.0, float(moocore.hv_approx(inside, ref=corner, nsamples=_DIRECTIONS)))

    def _index(self, metric: str) -> int:
        names = [goal.name for goal in self.goals]
        if metric not in names:
            raise InputError(f"{metric!r} is no objective of this job; {suggestion(metric, names)}")
        return names.index(metric)


def _standard_error(measured: Measurement) -> float:
    if measured.low is None or measured.high is None:
        return 0.0
    return (measured.high - measured.low) / (2.0 * _HALF)


def _beats(losses: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return who beats whom, shape (n, n), of losses and their margins, shape (n, goals)."""
    better = np.zeros((len(losses), len(losses)), dtype=bool)
    for loss, margin in zip(losses.T, margins.T, strict=True):
        # Most objectives are exact: without margins there is no root to take.
        limits = np.sqrt(np.add.outer(margin**2, margin**2)) if margin.any() else 0.0
        better |= np.subtract.outer(loss, loss) < -limits
    return better & ~better.T


def _standing(beats: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return who remains, as places, when all that those who remain beat have left."""
    remaining = np.ones(len(beats), dtype=bool)
    stands = np.zeros(len(beats), dtype=bool)
    rivals = beats.sum(axis=0)
    while remaining.any():
        chosen = np.flatnonzero(remaining & (rivals == 0))
        if not len(chosen):  # they beat each other in a circle
            left = np.flatnonzero(remaining)
            chosen = left[np.lexsort((numbers[left], rivals[left]))[:1]]
        leave = remaining & beats[chosen].any(axis=0)
        stands[chosen] = True
        remaining[chosen] = False
        remaining &= ~leave
        rivals -= beats[leave].sum(axis=0)
    return np.flatnonzero(stands)
