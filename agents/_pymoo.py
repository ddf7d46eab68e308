"""Evolution without generations, from pymoo's operators: one trial in, one proposal out.

pymoo's own loop waits for a whole generation. Here every told trial is merged into the
population and the algorithm's survival removes the worst (the steady state of Nebro and
Durillo, "On the effect of the steady-state selection scheme in multi-objective genetic
algorithms", EMO 2009), so that no worker waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.survival import Survival
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.selection.tournament import TournamentSelection

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.space import Values

from ._proposer import Proposer

# Children that are known already are bred again so many times, then replaced by a draw.
_LITTERS = 50
# Spread of SBX and polynomial mutation, as pymoo advises for whole numbers: with its 15 and
# 20 for real ones, most mutations of a few levels round back to the parent.
_ETA = 3.0


class SteadyState(Proposer):
    """An initial design, then children of tournament winners.

    A trial that breaks a constraint enters with its violation as pymoo's `G`; losses that
    it lacks are infinite, which no survival or tournament reads while it is infeasible.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int,
        population: int,
        crossover: float,
        mutation: float | None,
        survival: Survival,
        compare: Callable[..., np.ndarray],
    ) -> None:
        if population < 4:
            raise PluginError(f"population must be at least 4, given: {population!r}")
        for option, rate in (("crossover", crossover), ("mutation", mutation)):
            if rate is not None and not 0.0 <= rate <= 1.0:
                raise PluginError(f"{option} must be a probability in [0, 1], given: {rate!r}")
        super().__init__(problem, seed=seed, design=population)
        self._size = population
        self._rate = 1.0 / len(problem.space.parameters) if mutation is None else mutation
        self._survival = survival
        self._selection = TournamentSelection(func_comp=compare)
        self._sbx = SBX(prob=crossover, eta=_ETA, n_offsprings=1)
        self._pm = PM(prob=1.0, prob_var=self._rate, eta=_ETA)
        ordered = self._genome.ordered
        self._box = _box(self._genome.low, self._genome.high, len(problem.goals))
        self._ordered_box = _box(self._genome.low[ordered], self._genome.high[ordered], 1)
        self._population = Population.empty()

    def _propose(self) -> Policy | None:
        designed = self._next_designed()
        if designed is not None:
            return designed
        for _ in range(_LITTERS if len(self._population) > 1 else 0):
            policy = self._decode(self._child())
            if self._known.add(policy):
                return policy
        return self._known.draw(self._rng)

    def _child(self) -> np.ndarray:
        """Breed one vector, shape (parameters,), from two tournament winners."""
        rng = self._rng
        algorithm = SimpleNamespace(tournament_type="comp_by_rank_and_crowding", random_state=rng)
        mates = self._selection(
            self._box, self._population, 1, 2, algorithm=algorithm, random_state=rng
        )[0]
        parents = np.stack([mate.X for mate in mates])
        # Options have no order, so they are swapped whole and reset, never blended.
        child = np.where(rng.random(parents.shape[1]) < 0.5, parents[0], parents[1])
        reset = rng.random(len(child)) < self._rate
        child[reset] = self._genome.from_unit(rng.random((1, len(child))))[0, reset]
        ordered = self._genome.ordered
        if ordered.any():
            litter = [Population.new("X", parents[:, ordered])]
            bred = self._sbx(self._ordered_box, litter, random_state=rng)
            child[ordered] = self._pm(self._ordered_box, bred, random_state=rng)[0].X
        return self._genome.snap(child)

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        if losses is None:
            losses = np.full(len(self.problem.goals), np.inf)
        newcomer = Population.new(
            X=self._genome.vector(values)[None], F=losses[None], G=np.array([[violation]])
        )
        self._population = self._survival.do(
            self._box,
            Population.merge(self._population, newcomer),
            n_survive=self._size,
            random_state=self._rng,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the population as arrays, beside the generator and what is known."""
        # Infeasible members have no rank and no crowding; NaN stands for that.
        population = {
            key: np.array([each.get(key) for each in self._population], dtype=np.float64)
            for key in ("X", "F", "G", "rank", "crowding")
        }
        return super().state_dict() | {"population": population}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._population = Population.new(**state["population"])


def _box(low: np.ndarray, high: np.ndarray, goals: int) -> Problem:
    return Problem(n_var=len(low), n_obj=goals, n_ieq_constr=1, xl=low, xu=high)
