"""The front: the completed trials that no other one beats.

    front = Front.of(history.trials.values(), goals)     # the highest rung
    front.add(trial)                                     # True while nothing dominates it
    front.members, front.hypervolume(), front.knee()

Inside, values are *losses*: smaller is better for every goal. Picking a member (`knee`,
`weighted`) uses losses that are min-max normalised over the members, so that units do
not matter; a goal in which all members agree counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autoprune.errors import InputError, suggestion
from autoprune.trial import Evaluation, Trial, TrialState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoprune.contracts.executor import Split
    from autoprune.contracts.objective import Goal

_TIE = 1e-12  # normalised scores closer than this differ by rounding only


class Front:
    """The non-dominated trials under `goals`, kept up to date as trials arrive.

    `split` says which measurement counts: the one of the search, or the later one on the
    report split. The values of a trial must not change between calls: after a new report,
    build a new front.
    """

    def __init__(self, goals: Sequence[Goal], *, split: Split = "search") -> None:
        self.goals = tuple(goals)
        self.split = split
        self._trials: list[Trial] = []
        self._losses = np.empty((0, len(self.goals)))
        self._hypervolume: float | None = None

    @classmethod
    def of(
        cls,
        trials: Iterable[Trial],
        goals: Sequence[Goal],
        *,
        rung: int | None = None,
        split: Split = "search",
    ) -> Front:
        """Return the front of the trials at `rung`.

        Without `rung` it is the highest one with a completed trial that was measured on
        `split`. Raises `InputError` if such a trial lacks the value of a goal.
        """
        front = cls(goals, split=split)
        measured = [
            trial
            for trial in trials
            if trial.state is TrialState.COMPLETED and front._evaluation(trial) is not None
        ]
        chosen = max((trial.rung for trial in measured), default=0) if rung is None else rung
        for trial in measured:
            if trial.rung == chosen:
                front.add(trial)
        return front

    def add(self, trial: Trial) -> bool:
        """Add `trial`, remove what it dominates, and say whether it is on the front.

        Trials that are not completed, break a constraint or hold a value that is not
        finite are left out. Of trials with equal values the lowest number stays. Takes
        O(members * goals) time. Raises `InputError` if the value of a goal is missing.
        """
        evaluation = self._evaluation(trial)
        if trial.state is not TrialState.COMPLETED or not (evaluation and evaluation.is_feasible):
            return False
        losses = self._loss(trial)
        if losses is None:
            return False
        as_good = (self._losses <= losses).all(axis=1)
        as_bad = (self._losses >= losses).all(axis=1)
        if (as_good & ~as_bad).any():
            return False
        twins = np.flatnonzero(as_good)
        if any(self._trials[index].number < trial.number for index in twins):
            return False
        if as_bad.any():
            stays = np.flatnonzero(~as_bad)
            self._trials = [self._trials[index] for index in stays]
            self._losses = self._losses[stays]
        self._trials.append(trial)
        self._losses = np.vstack((self._losses, losses))
        self._hypervolume = None
        return True

    @property
    def members(self) -> tuple[Trial, ...]:
        """The trials of the front, best first in the first goal; then by the next goals."""
        order = np.lexsort(self._losses.T[::-1])
        return tuple(self._trials[index] for index in order)

    def dominates(self, a: Trial, b: Trial) -> bool:
        """Say whether `a` is as good as `b` in every goal and better in one.

        Only values count, not states or constraints. False where either has no finite
        value in some goal; raises `InputError` if the value of a goal is missing.
        """
        one, other = self._loss(a), self._loss(b)
        if one is None or other is None:
            return False
        return bool((one <= other).all() and (one < other).any())

    @property
    def reference_point(self) -> tuple[float, ...] | None:
        """The worst values of interest, in the goals' units; None if one is unknown."""
        references = [goal.reference for goal in self.goals if goal.reference is not None]
        return tuple(references) if len(references) == len(self.goals) else None

    def hypervolume(self) -> float | None:
        """Return the share, in [0, 1], of the box of interest that the front dominates.

        Each goal is one side of a unit box, 0 ideal and 1 the reference: value / reference
        for a goal that is minimised, and reference / value for one that is maximised (as
        a throughput is the inverse of a latency; its ideal is infinite). Members beyond a
        reference contribute nothing, values below 0 count as 0. None if a reference is
        unknown or not positive: such a box has no volume. Computed once per change.
        """
        reference = self.reference_point
        if reference is None or min(reference) <= 0.0:
            return None
        if self._hypervolume is None:
            import moocore  # takes 0.1 s, and most readers of a front do not need it

            shares = self._shares(reference)
            inside = shares[(shares < 1.0).all(axis=1)]
            self._hypervolume = float(moocore.hypervolume(inside, ref=1.0)) if len(inside) else 0.0
        return self._hypervolume

    def knee(self) -> Trial:
        """Return the member that gains most over trading one goal for another evenly.

        It is the member farthest, on the side of the ideal, from the hyperplane through
        the corners of the normalised front (each the worst in one goal and the best in
        all others), so the one with the smallest sum of normalised losses [1]_. With two
        goals the corners are the two extreme members. With more, members as corners would
        leave the plane undefined whenever one is extreme in two goals (the network with
        the fewest macs mostly has the fewest parameters). Ties: the lowest number.

        .. [1] Das, "On characterizing the knee of the Pareto curve based on normal-boundary
           intersection", Structural Optimization 18 (1999).

        Raises `InputError` if the front is empty.
        """
        return self.weighted({goal.name: 1.0 for goal in self.goals})

    def best(self, metric: str) -> Trial:
        """Return the member with the best value of `metric`; ties: the lowest number.

        Raises `InputError` if no goal has this name, or the front is empty.
        """
        return self.weighted({metric: 1.0})

    def weighted(self, weights: Mapping[str, float]) -> Trial:
        """Return the member with the smallest weighted sum of normalised losses.

        Goals that are not named weigh 0. Ties: the lowest number. Raises `InputError` for
        an unknown goal, weights below 0 or all 0, or an empty front.
        """
        names = [goal.name for goal in self.goals]
        for name, weight in weights.items():
            if name not in names:
                raise InputError(f"no objective is called {name!r}; {suggestion(name, names)}")
            if not (math.isfinite(weight) and weight >= 0.0):
                raise InputError(f"the weight of {name!r} must be 0 or more, given: {weight!r}")
        if not any(weights.values()):
            raise InputError("at least one weight must be above 0")
        if not self._trials:
            raise InputError("the front is empty: no trial completed within the constraints")
        vector = np.array([weights.get(name, 0.0) for name in names])
        scores = self._normalised() @ (vector / vector.sum())
        ties = np.flatnonzero(scores <= scores.min() + _TIE)
        return min((self._trials[index] for index in ties), key=lambda trial: trial.number)

    def _evaluation(self, trial: Trial) -> Evaluation | None:
        return trial.evaluation if self.split == "search" else trial.report

    def _loss(self, trial: Trial) -> NDArray[np.float64] | None:
        """Return the losses of `trial`, (goals,); None unless there are finite ones."""
        evaluation = self._evaluation(trial)
        if evaluation is None:
            return None
        try:
            values = [goal.loss(evaluation.value(goal.name)) for goal in self.goals]
        except KeyError as error:
            found = suggestion(str(error.args[0]), evaluation.measurements)
            raise InputError(f"trial {trial.number} was not measured in {error}; {found}") from error
        losses = np.array(values, dtype=np.float64)
        return losses if np.isfinite(losses).all() else None

    def _normalised(self) -> NDArray[np.float64]:
        """Return the members' losses, (members, goals), scaled to [0, 1] goal by goal."""
        low = self._losses.min(axis=0)
        width = self._losses.max(axis=0) - low
        return (self._losses - low) / np.where(width > 0.0, width, 1.0)

    def _shares(self, reference: Sequence[float]) -> NDArray[np.float64]:
        """Return the members' places in the unit box of interest, (members, goals)."""
        shares = np.empty_like(self._losses)
        for index, (goal, worst) in enumerate(zip(self.goals, reference, strict=True)):
            losses = self._losses[:, index]
            if goal.goal == "min":
                shares[:, index] = np.maximum(losses, 0.0) / worst
            else:
                beyond = np.full_like(losses, np.inf)
                shares[:, index] = np.divide(worst, -losses, out=beyond, where=losses < 0.0)
        return shares
