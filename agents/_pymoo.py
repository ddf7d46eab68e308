"""Evolution without generations, from pymoo's operators: one trial in, one proposal out.

pymoo's own loop waits for a whole generation. Here every told trial is merged into the
population and the algorithm's survival removes the worst (the steady state of Nebro and
Durillo, "On the effect of the steady-state selection scheme in multi-objective genetic
algorithms", EMO 2009), so that no worker waits for another.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from moocore import is_nondominated
from pymoo.algorithms.moo.sms import cv_and_dom_tournament
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.survival import Survival
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.ref_dirs import get_reference_directions

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.space import Integer, Values

from ._genome import Genome
from ._proposer import Proposer

# Children that are known already are bred again so many times, then replaced by a draw.
_LITTERS = 50
# Spread of SBX and polynomial mutation, as pymoo advises for whole numbers: with its 15 and
# 20 for real ones, most mutations of a few levels round back to the parent.
_ETA = 3.0
# Standard deviation of a level switch's first step, as a share of the parameter's range.
_STEP = 0.3
# So many pairs of parameters are tried: where one has little room, the other cannot answer.
_PAIRS = 10
# To this share of its range a real number is searched for; a whole one to the last unit.
_RESOLUTION = 1e-3


class SteadyState(Proposer):
    """An initial design, then children of tournament winners.

    A trial that breaks a constraint enters with its violation as pymoo's `G`; losses that
    it lacks are infinite, which no survival or tournament reads while it is infeasible. A
    family says who survives, by which `tournament` parents are chosen, and how many goals its
    idea of spread needs, `least_goals`.

    The defaults were chosen on made-up networks of 9 and 27 groups whose sensitivities
    differ 100 to 1,000-fold. After 100 trials a population of 20 had a hypervolume larger by
    0.02 to 0.04 than one of 40, in every family; after 1,000 they were level. Level switches
    gained nothing on a front, and cost 0.01 to 0.04 as half of the children.

    Args:
        population: Size of the initial design and of the population that survives; where
            there are directions, the largest even set of them that fits in is taken.
        crossover: Probability that a child mixes its parents' ordered parameters.
        mutation: Probability that a parameter mutates; one per child by default.
        switch: Share of children made by a level switch, which keeps the macs; of use, if at
            all, where these are limited.

    Raises:
        PluginError: Fewer goals than `least_goals`, a population below 4 or the number of
            goals, or a rate outside [0, 1].
    """

    least_goals = 2
    tournament: ClassVar[Callable[..., np.ndarray]] = staticmethod(cv_and_dom_tournament)

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        population: int = 20,
        crossover: float = 0.9,
        mutation: float | None = None,
        switch: float = 0.0,
    ) -> None:
        if len(problem.goals) < self.least_goals:
            raise PluginError(
                f"{type(self).__name__} spreads its population over a front of at least "
                f"{self.least_goals} goals, given: {len(problem.goals)}; use nsga2 or tpe"
            )
        least = max(4, len(problem.goals))
        if population < least:
            raise PluginError(f"population must be at least {least}, given: {population!r}")
        rates = (("crossover", crossover), ("mutation", mutation), ("switch", switch))
        for option, rate in rates:
            if rate is not None and not 0.0 <= rate <= 1.0:
                raise PluginError(f"{option} must be a probability in [0, 1], given: {rate!r}")
        super().__init__(problem, seed=seed, design=population)
        self._size = population
        self._rate = 1.0 / len(problem.space.parameters) if mutation is None else mutation
        self._switch_rate = switch
        self._switch = LevelSwitch(problem, self._genome)
        self._survival = self._surviving(len(problem.goals), population)
        self._selection = TournamentSelection(func_comp=self.tournament)
        self._sbx = SBX(prob=crossover, eta=_ETA, n_offsprings=1)
        self._pm = PM(prob=1.0, prob_var=self._rate, eta=_ETA)
        ordered = self._genome.ordered
        self._box = _box(self._genome.low, self._genome.high, len(problem.goals))
        self._ordered_box = _box(self._genome.low[ordered], self._genome.high[ordered], 1)
        self._population = Population.empty()

    @abstractmethod
    def _surviving(self, goals: int, population: int) -> Survival:
        """Return what decides who goes when there is one too many."""

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
        """Breed one vector, shape (parameters,)."""
        if self._rng.random() < self._switch_rate:
            child = self._switch(self._parents(1)[0], self._rng)
            if child is not None:
                return child
        return self._crossed(self._parents(2))

    def _parents(self, count: int) -> np.ndarray:
        """Return the vectors of `count` tournament winners, shape (count, parameters)."""
        return self._winners(self._population, count)

    def _winners(self, population: Population, count: int) -> np.ndarray:
        rng = self._rng
        algorithm = SimpleNamespace(tournament_type="comp_by_rank_and_crowding", random_state=rng)
        mates = self._selection(
            self._box, population, 1, count, algorithm=algorithm, random_state=rng
        )[0]
        return np.stack([mate.X for mate in mates])

    def _crossed(self, parents: np.ndarray) -> np.ndarray:
        """Cross two parents, shape (2, parameters), and mutate the child."""
        rng = self._rng
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
        vector = self._genome.vector(values)
        self._admit(Population.new(X=vector[None], F=losses[None], G=np.array([[violation]])))

    def _admit(self, newcomer: Population) -> None:
        """Merge a population of one into that of the searcher, and let the worst go."""
        self._population = self._survival.do(
            self._box,
            Population.merge(self._population, newcomer),
            n_survive=self._size,
            random_state=self._rng,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the population as arrays, beside the generator and what is known."""
        return super().state_dict() | {"population": to_arrays(self._population)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._population = Population.new(**state["population"])


class LevelSwitch:
    """Moves one ordered parameter and another one against it, so that the macs stay.

    Sieberling et al., "EvoPress: accurate dynamic model compression via evolutionary
    search", 2024. Levels differ in cost from group to group, so the answering level is
    searched for with exact costs: the macs stay to within what one such level is worth.
    """

    def __init__(self, problem: SearchProblem, genome: Genome) -> None:
        self._problem = problem
        self._genome = genome
        self._span = genome.high - genome.low
        self._columns = np.flatnonzero(genome.ordered & (self._span > 0.0))
        whole = np.array([isinstance(each, Integer) for each in genome.parameters])
        self._resolution = np.where(whole, 1.0, _RESOLUTION * self._span)

    def __call__(self, parent: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Return a changed copy of `parent`, shape (parameters,); None where none is found."""
        if len(self._columns) < 2:
            return None
        budget = self._macs(parent)
        for _ in range(_PAIRS):
            first, second = rng.choice(self._columns, 2, replace=False)
            child = self._answered(self._stepped(parent, first, rng), second, budget)
            if child is not None:
                return child
        return None

    def _stepped(self, parent: np.ndarray, column: int, rng: np.random.Generator) -> np.ndarray:
        step = rng.normal(0.0, _STEP * self._span[column])
        step = np.copysign(max(abs(step), self._resolution[column]), step)
        low, high = self._genome.low[column], self._genome.high[column]
        child = parent.copy()
        child[column] += step if low <= parent[column] + step <= high else -step
        return self._genome.snap(child)

    def _answered(self, child: np.ndarray, column: int, budget: float) -> np.ndarray | None:
        """Return `child` with the level of `column` nearest to `budget`.

        None where no level makes up for what `child` costs more or less, or it costs the same.
        """
        sign = np.sign(self._macs(child) - budget)
        near, far = child.copy(), child.copy()
        far[column] = (self._genome.low if sign > 0 else self._genome.high)[column]
        if sign == 0 or sign * (self._macs(far) - budget) > 0:
            return None
        # `near` misses the budget on the child's side of it, `far` on the other or not at all.
        while abs(far[column] - near[column]) > self._resolution[column]:
            middle = child.copy()
            middle[column] = (near[column] + far[column]) / 2.0
            middle = self._genome.snap(middle)
            if sign * (self._macs(middle) - budget) > 0:
                near = middle
            else:
                far = middle
        return min(near, far, key=lambda each: abs(self._macs(each) - budget))

    def _macs(self, vector: np.ndarray) -> float:
        space = self._problem.space
        return float(self._problem.costs.costs(space.decode(self._genome.values(vector))).macs)


def to_arrays(population: Population) -> dict[str, np.ndarray]:
    """Return what makes up a population, shape (members, ...) each."""
    # Infeasible members have no rank and no crowding; NaN stands for that.
    return {
        key: np.array([each.get(key) for each in population], dtype=np.float64)
        for key in ("X", "F", "G", "rank", "crowding")
    }


def scaled(losses: np.ndarray) -> np.ndarray:
    """Return losses, shape (n, goals), on scales where the finite ones' front spans [0, 1].

    Goals differ by orders of magnitude, and directions and distances would see only the
    largest. The scales follow from the population alone, so there is no state of them.
    """
    finite = losses[np.isfinite(losses).all(axis=1)]
    if not len(finite):
        return losses
    ideal = finite.min(axis=0)
    span = finite[is_nondominated(finite)].max(axis=0) - ideal
    shares: np.ndarray = (losses - ideal) / np.where(span > 0.0, span, 1.0)
    return shares


def directions(goals: int, population: int) -> np.ndarray:
    """Return as many evenly spread directions as fit the population, shape (n, goals).

    Das and Dennis, "Normal-boundary intersection", SIAM Journal on Optimization 1998.
    """
    fitting = [
        partitions
        for partitions in range(1, population)
        if math.comb(partitions + goals - 1, goals - 1) <= population
    ]
    partitions = max(fitting, default=1)
    rays: np.ndarray = get_reference_directions("das-dennis", goals, n_partitions=partitions)
    return rays


def _box(low: np.ndarray, high: np.ndarray, goals: int) -> Problem:
    return Problem(n_var=len(low), n_obj=goals, n_ieq_constr=1, xl=low, xu=high)
