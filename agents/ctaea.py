"""C-TAEA: two archives, one that converges under the constraints and one that explores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from moocore import is_nondominated, pareto_rank
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.survival import Survival

from ._pymoo import SteadyState, directions, scaled, to_arrays

# In place of a weight of zero, as the paper has it.
_LEAST_WEIGHT = 1e-4


class CTAEA(SteadyState):
    """Evolves two archives: one converges under constraints, one explores in spite of them.

    Li et al., "Two-archive evolutionary algorithm for constrained multiobjective
    optimization", IEEE TEC 2019, in a steady state. For constraints on measured values,
    whose trials have all losses: those refused before an evaluation show the convergence
    archive the way to the feasible region, but cannot enter the other one.
    """

    _diverse = Population.empty()  # replaced, never changed in place

    def _surviving(self, goals: int, population: int) -> Survival:
        self._regions = _Regions(directions(goals, population))
        return _Convergence(self._regions)

    def _admit(self, newcomer: Population) -> None:
        super()._admit(newcomer)
        if np.isfinite(newcomer[0].F).all():
            self._diverse = self._diversified(Population.merge(self._diverse, newcomer))

    def _diversified(self, held: Population) -> Population:
        """Return `held` without the worst of the region where both archives have most."""
        if len(held) <= self._size:
            return held
        both = Population.merge(self._population, held).get("F")
        regions, fitness = self._regions.of(scaled(both))
        counts = np.bincount(regions[np.isfinite(both).all(axis=1)], minlength=len(both))
        regions, fitness = regions[-len(held) :], fitness[-len(held) :]
        crowded = regions == regions[counts[regions].argmax()]
        inside = np.flatnonzero(crowded)
        ranks = pareto_rank(held[inside].get("F"))
        worst = inside[np.lexsort((fitness[inside], ranks))[-1]]
        return held[np.arange(len(held)) != worst]

    def _parents(self, count: int) -> np.ndarray:
        """Return winners of either archive, more often of the one that is ahead."""
        if len(self._diverse) < 2:
            return super()._parents(count)
        archives = (self._population, self._diverse)
        ahead = is_nondominated(Population.merge(*archives).get("F"), keep_weakly=True)
        size = len(self._population)
        shares = (ahead[:size].mean(), ahead[size:].mean())
        parents = []
        for number in range(count):
            threshold = shares[1] if number == 0 else self._rng.random()
            archive = self._population if shares[0] > threshold else self._diverse
            parents.append(self._winners(archive, 1)[0])
        return np.stack(parents)

    def state_dict(self) -> dict[str, Any]:
        """Return both archives as arrays, beside the generator and what is known."""
        return super().state_dict() | {"diverse": to_arrays(self._diverse)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._diverse = Population.new(**state["diverse"])


class _Regions:
    """Parts of the space of losses, one around each direction from the ideal point."""

    def __init__(self, rays: np.ndarray) -> None:
        self._weights = np.maximum(rays, _LEAST_WEIGHT)
        self._units = rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def of(self, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the region and the Tchebycheff fitness of scaled losses, shape (n,) each.

        Infinite losses belong to region 0, and no fitness is worse.
        """
        known = np.where(np.isfinite(losses), losses, 0.0)
        regions = (known @ self._units.T).argmax(axis=1)
        fitness: np.ndarray = (losses / self._weights[regions]).max(axis=1)
        return regions, fitness


class _Convergence(Survival):
    """Lets one member go, shared evenly among regions once all members are feasible."""

    def __init__(self, regions: _Regions) -> None:
        super().__init__(filter_infeasible=False)
        self._regions = regions

    def _do(
        self, problem: Problem, pop: Population, *_: Any, n_survive: int, **options: Any
    ) -> Population:
        if len(pop) <= n_survive:
            return pop
        losses, violations = scaled(pop.get("F")), pop.get("CV")[:, 0]
        infeasible = np.flatnonzero(violations > 0.0)
        regions, fitness = self._regions.of(losses)
        if len(infeasible):
            both = np.column_stack([violations, fitness])[infeasible]
            worst = infeasible[np.lexsort((both[:, 0], pareto_rank(both)))[-1]]
        else:
            worst = _most_crowding(losses, regions, fitness)
        return pop[np.arange(len(pop)) != worst]


def _most_crowding(losses: np.ndarray, regions: np.ndarray, fitness: np.ndarray) -> int:
    """Return who is alone in the last rank, or the less fit of the closest pair in a crowd."""
    ranks = pareto_rank(losses)
    last = np.flatnonzero(ranks == ranks.max())
    if len(last) == 1 and ranks.max() > 0:
        return int(last[0])
    counts = np.bincount(regions)
    crowd = np.flatnonzero(counts[regions] == counts.max())
    distances = np.linalg.norm(losses[crowd][:, None] - losses[crowd], axis=-1)
    distances[regions[crowd][:, None] != regions[crowd]] = np.inf
    np.fill_diagonal(distances, np.inf)
    pair = crowd[list(np.unravel_index(distances.argmin(), distances.shape))]
    return int(pair[fitness[pair].argmax()])
