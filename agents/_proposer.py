"""What searchers share that propose one policy after the other and never repeat one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.contracts.searcher import Searcher, SearchProblem, total_violation
from autoprune.errors import PolicyError
from autoprune.policy import Policy
from autoprune.space import Values
from autoprune.trial import Trial

from ._genome import Genome
from ._known import Known


class Proposer(Searcher):
    """Asks `_propose` for one policy at a time, and sorts what is told into three hooks.

    A family overrides `_learn` (losses, or a violation, of a policy inside the space, at
    most once per policy) and `_forget` (a policy that will have no result). `design` is the
    number of points that the search begins with, 0 or at least 2.
    """

    def __init__(self, problem: SearchProblem, design: int = 0, *, seed: int = 0) -> None:
        super().__init__(problem, seed=seed)
        self._genome = Genome(problem.space)
        self._known = Known(problem)
        self._rng = np.random.default_rng(seed)
        self._design = self._genome.design(design, self._rng) if design else np.empty((0, 0))
        self._designed = 0
        self._results = 0

    @abstractmethod
    def _propose(self) -> Policy | None:
        """Return a policy that is not known yet, remembered as known; None when exhausted."""

    def _next_designed(self) -> Policy | None:
        """Return the next new policy of the initial design; None when it is over.

        It is over as well when others have tried as much as it was to show.
        """
        while self._designed < len(self._design) > self._results:
            self._designed += 1
            policy = self._decode(self._design[self._designed - 1])
            if self._known.add(policy):
                return policy
        return None

    def _decode(self, vector: np.ndarray) -> Policy:
        return self.problem.space.decode(self._genome.values(vector))

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        """Learn from a result; `losses`, shape (goals,), are None where none were measured."""

    def _forget(self, policy: Policy) -> None:
        """Stop waiting for a result of `policy`."""

    def ask(self, count: int) -> Sequence[Policy]:
        """Return up to `count` policies, all of them new; fewer when the space is used up."""
        policies: list[Policy] = []
        while len(policies) < count:
            state = self._rng.bit_generator.state
            policy = self._propose()
            if policy is None:
                self._rng.bit_generator.state = state  # an empty answer leaves no trace
                break
            policies.append(policy)
        return policies

    def tell(self, trial: Trial) -> None:
        """Learn from a terminal trial; one outside the space is ignored."""
        values = self._inside(trial.policy)
        if values is None:
            return
        self._known.add(trial.policy)
        losses = self.problem.losses(trial)
        if losses is not None and not np.isfinite(losses).all():
            losses = None
        violation = total_violation(trial)
        has_result = np.isfinite(violation) and (losses is not None or violation > 0.0)
        if not has_result:
            self._forget(trial.policy)
        elif self._known.learn(trial.policy):
            self._results += 1
            self._learn(values, losses, violation)

    def _inside(self, policy: Policy) -> Values | None:
        """Return the values of `policy`, or None where it lies outside the space."""
        space = self.problem.space
        try:
            values = space.encode(policy)
        except PolicyError:
            return None
        allowed = all(each.allows(values[each.name]) for each in space.parameters)
        return values if allowed else None

    def state_dict(self) -> dict[str, Any]:
        """Return the random generator, what is known and how many results, as JSON values."""
        return {
            "rng": self._rng.bit_generator.state,
            "known": self._known.state_dict(),
            "results": self._results,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._rng.bit_generator.state = state["rng"]
        self._known.load_state_dict(state["known"])
        self._results = int(state["results"])
        self._designed = 0  # the points that were asked are known, and passed over
