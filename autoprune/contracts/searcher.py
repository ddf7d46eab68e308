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
* An empty answer to `ask` changes no state. While nothing is under way, and no training
  is requested, it means that the searcher is exhausted.
* A searcher that needs something trained first says so with `training`; until `trained` has
  brought complete progress, `ask` answers nothing, and tells are learned from as ever.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.contracts.training import TrainingProgress, TrainingRequest
from autoprune.graph.cost import CostTable
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.space import SearchSpace
from autoprune.trial import Evaluation, Trial, TrialState


@dataclass(frozen=True)
class SearchProblem:
    """What a searcher may know: the space, the goals, the groups and their costs.

    `trials` is the budget of evaluations where the job sets one. `scores` are those of the
    units of every prunable group by the job's criterion, shape (units,) each; higher is more
    important. `dense` is what was measured of the dense network, and the goals carry
    references, when a search runs; before that, while options are checked, neither is known.
    Where the search is timeless, seconds must not matter, so that it can be repeated exactly.
    """

    space: SearchSpace
    goals: tuple[Goal, ...]
    groups: GroupTable
    costs: CostTable
    trials: int | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    dense: Evaluation | None = None
    is_timeless: bool = False

    def losses(self, trial: Trial) -> np.ndarray | None:
        """Return the objective values as losses, shape (goals,); None unless COMPLETED."""
        if trial.state is not TrialState.COMPLETED or trial.evaluation is None:
            return None
        evaluation = trial.evaluation
        return np.array([goal.loss(evaluation.value(goal.name)) for goal in self.goals])


def total_violation(trial: Trial) -> float:
    """Return the summed violation of hard and soft constraints; 0.0 where none is known."""
    if trial.evaluation is None:
        return 0.0
    return sum((*trial.evaluation.violations.values(), *trial.evaluation.misses.values()))


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

    @property
    def training(self) -> TrainingRequest | None:
        """What must be trained on a worker before this searcher proposes; None for nothing."""
        return None

    def trained(self, progress: TrainingProgress | None) -> None:  # noqa: B027
        """Take note of how far the requested training has come; None: it failed for good.

        A searcher that still requests training then is asked no more.
        """

    def author_of(self, policy: Policy) -> str | None:
        """Return which of several searchers proposed `policy`; None where this is but one."""
        return None

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Learn from a terminal trial."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on: JSON values and numpy arrays."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
