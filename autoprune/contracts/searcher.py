"""The contract of a searcher: it proposes policies and learns from trials.

A worked sequence:

    searcher = NSGA2(problem, seed=0, population=40)
    policies = searcher.ask(4)            # up to 4; fewer or none when it has no more
    ...                                   # the engine runs them, in any order
    searcher.tell(trial)                  # once per terminal trial, its own and others'
    state = searcher.state_dict()         # JSON values and numpy arrays only
    NSGA2(problem, seed=0, population=40).load_state_dict(state)

Behaviour that every searcher keeps:

* `ask` never blocks on a tell: it may be called many times before the first one.
* `tell` may come late, in any order, for failed or infeasible trials, for policies that
  this searcher did not ask for, and for policies outside its space; none of these raises.
* State is a function of the problem, the seed and the order of calls. Random generators
  are owned; no global random state is read or changed.
* An empty answer to `ask` while nothing is under way means that it is exhausted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.graph.cost import CostTable
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.space import SearchSpace
from autoprune.trial import Trial, TrialState


@dataclass(frozen=True)
class SearchProblem:
    """What a searcher may know: the space, the goals, the groups and their costs.

    `trials` is the budget of evaluations where the job sets one.
    """

    space: SearchSpace
    goals: tuple[Goal, ...]
    groups: GroupTable
    costs: CostTable
    trials: int | None = None

    def losses(self, trial: Trial) -> np.ndarray | None:
        """Return the objective values as losses, shape (goals,); None unless COMPLETED."""
        if trial.state is not TrialState.COMPLETED or trial.evaluation is None:
            return None
        evaluation = trial.evaluation
        return np.array([goal.loss(evaluation.value(goal.name)) for goal in self.goals])


def total_violation(trial: Trial) -> float:
    """Return the summed constraint violation of a trial; 0.0 where none is known."""
    return sum(trial.evaluation.violations.values()) if trial.evaluation else 0.0


class Searcher(ABC):
    """Proposes policies. Constructed as `Searcher(problem, seed=..., **options)`; the
    keyword-only options of the constructor are what a job may set.
    """

    def __init__(self, problem: SearchProblem, *, seed: int = 0) -> None:
        self.problem = problem
        self.seed = seed

    @abstractmethod
    def ask(self, count: int) -> Sequence[Policy]:
        """Return up to `count` policies of the problem's space."""

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Learn from a terminal trial."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on: JSON values and numpy arrays."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
