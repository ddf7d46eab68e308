"""What a portfolio knows of all trials: the front's losses, and what trials cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.front import Front
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Measurement, Trial, TrialState

# How fast the mean gain forgets: it is that of about ten trials.
_FADING = 0.9
# A single lucky trial counts at most as much as so many ordinary ones.
_MOST = 5.0


class Archive:
    """The front of all trials told, and the mean seconds of one.

    Where the goals have no reference point there is no hypervolume, and nothing is gained.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._front = Front(problem.goals)
        self._completed = 0
        self._seconds = 0.0
        self._recent = np.zeros(2)  # discounted: what trials gained, and their number

    @property
    def mean_seconds(self) -> float:
        """Mean seconds of a completed trial; one second before the first."""
        return self._seconds / self._completed if self._seconds else 1.0

    def seconds(self, trial: Trial) -> float:
        """Return what a trial cost; without an evaluation, as much as the mean."""
        if self._problem.is_timeless:
            return 1.0
        return trial.evaluation.seconds if trial.evaluation else self.mean_seconds

    def add(self, trial: Trial) -> float:
        """Take in a trial and return by how much the hypervolume grew."""
        if trial.state is not TrialState.COMPLETED or trial.evaluation is None:
            return 0.0
        self._completed += 1
        self._seconds += self.seconds(trial)
        before = self._front.hypervolume() or 0.0
        self._front.add(trial)
        gained = (self._front.hypervolume() or 0.0) - before
        self._recent = _FADING * self._recent + [gained, 1.0]
        return gained

    def relative(self, gained: float) -> float:
        """Return a gain over the mean of the latest trials, its own among them."""
        mean = self._recent[0] / max(self._recent[1], 1.0)
        return float(min(gained / mean, _MOST)) if mean > 0.0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the members' objective values and the sums."""
        names = [goal.name for goal in self._problem.goals]
        values = [
            [each.evaluation.value(name) for name in names]
            for each in self._front.members
            if each.evaluation
        ]
        return {
            "numbers": [each.number for each in self._front.members],
            "values": np.array(values, dtype=np.float64).reshape(len(values), len(names)),
            "completed": self._completed,
            "recent": self._recent,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._completed = int(state["completed"])
        self._seconds = float(state["seconds"])
        self._recent = np.array(state["recent"])
        self._front = Front(self._problem.goals)
        for number, row in zip(state["numbers"], state["values"], strict=True):
            self._front.add(self._member(number, row))

    def _member(self, number: int, row: np.ndarray) -> Trial:
        values = zip(self._problem.goals, row.tolist(), strict=True)
        measured = {goal.name: Measurement(value) for goal, value in values}
        return Trial(
            number,
            Policy(),
            "",
            state=TrialState.COMPLETED,
            evaluation=Evaluation(measured),
        )
