"""Surrogate: predict what networks lose, and measure where most is to be gained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from moocore import is_nondominated, pareto_rank
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from scipy.special import ndtr

from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.space import Integer, Values

from ._costs import CostModel, CostName
from ._inputs import Inputs
from ._predictor import LossPredictor, Predictor
from ._proposer import Proposer
from ._staircase import Staircase

# Results that modelling waits for, and those that it keeps.
_LEAST = 4
_KEPT = 300
# Hyperparameters are optimised when the results have grown by this factor, and a plan is at
# least as long as this part of them, so that an ask stays cheap.
_GROWTH = 1.15
_PART = 40
_POPULATION = 100
# About as many even points are among those that a search begins with.
_EVEN = 50
_GENERATIONS = 20
# Standard deviation of a mutation, as a share of the parameter's range.
_STEP = 0.15
# How far from their bounds results are taken to lie at least, on either side.
_MARGIN = 0.5


class Surrogate(Proposer):
    """Fits predictors of what is measured, searches them, and measures the most promising.

    Cummings et al., "A hardware-aware framework for accelerating neural architecture search
    across modalities", 2022 (LINAS), with Gaussian processes as predictors: NSGA-II finds
    the predicted front, macs, params and size_bytes exact, and those of its members are
    proposed that raise the hypervolume most by expectation, one after the other, each as if
    the ones before had been measured. Results of others are learned from like its own.

    Args:
        startup: Size of the initial design.
        batch: How many proposals one plan makes; a fortieth of the results if that is more.

    Raises:
        PluginError: A startup below 2, or a batch below 1.
    """

    def __init__(
        self, problem: SearchProblem, *, seed: int = 0, startup: int = 20, batch: int = 4
    ) -> None:
        if startup < 2:
            raise PluginError(f"startup must be at least 2, given: {startup!r}")
        if batch < 1:
            raise PluginError(f"batch must be at least 1, given: {batch!r}")
        super().__init__(problem, seed=seed, design=startup)
        self._batch = batch
        parameters = problem.space.parameters
        self._least_step = np.array([float(isinstance(x, Integer)) for x in parameters])
        names = [goal.name for goal in problem.goals]
        self._costs = {
            names.index(name): CostModel(problem, name)
            for name in get_args(CostName)
            if name in names
        }
        self._inputs = Inputs(problem, self._genome)
        # Where there are several kinds, what is even in each is better than most.
        kinds = self._genome.kind_count
        steps = max(2, round(_EVEN ** (1.0 / kinds))) if kinds > 1 else 0
        self._even = self._genome.even(np.linspace(0.0, 1.0, steps))[0]
        columns = self._inputs.of(self._genome.low[None]).shape[1]
        self._losses = {
            i: LossPredictor(columns, self._dense(goal), _worst(goal))
            for i, goal in enumerate(problem.goals)
            if i not in self._costs
        }
        self._violation = Predictor(columns + len(names))
        # What was told: vectors, losses (NaN where none were measured), violations.
        self._vectors = np.empty((0, len(self._genome.low)))
        self._told = np.empty((0, len(names)))
        self._violations = np.empty(0)
        self._under_way: dict[str, np.ndarray] = {}
        self._queue: list[np.ndarray] = []
        self._planned = 0
        self._optimised = 0

    def _dense(self, goal: Goal) -> float | None:
        dense = self.problem.dense
        return None if dense is None else goal.loss(dense.value(goal.name))

    def _propose(self) -> Policy | None:
        before = self._notes()
        policy = self._next_designed() or self._next_planned() or self._known.draw(self._rng)
        if policy is None:
            self._recall(before)
        else:
            vector = self._genome.vector(self.problem.space.encode(policy))
            self._under_way[self._known.key(policy)] = vector
        return policy

    def _next_planned(self) -> Policy | None:
        """Return the next new policy of the plan, or of a new one; None if it has none."""
        if self._results - self._planned >= self._plan_size():
            self._queue = []
        for is_last in (False, True):
            while self._queue:
                policy = self._decode(self._queue.pop(0))
                if self._known.add(policy):
                    return policy
            if not is_last and np.isfinite(self._told).all(axis=1).sum() >= _LEAST:
                self._queue = self._plan()
        return None

    def _plan_size(self) -> int:
        return max(self._batch, self._results // _PART)

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        self._forget(self.problem.space.decode(values))
        row = np.full(len(self.problem.goals), np.nan) if losses is None else losses
        self._vectors = np.vstack([self._vectors, self._genome.vector(values)])
        self._told = np.vstack([self._told, row])
        self._violations = np.append(self._violations, violation)
        if len(self._told) >= _KEPT + self._plan_size():
            self._thin_out()

    def _forget(self, policy: Policy) -> None:
        self._under_way.pop(self._known.key(policy), None)

    def _thin_out(self) -> None:
        """Keep the better half of the results, and of the others those that lie apart."""
        ranks = pareto_rank(np.where(np.isnan(self._told), np.inf, self._told))
        worse = np.lexsort([ranks, self._violations])[_KEPT // 2 :]
        inputs = self._inputs.of(self._vectors[worse])
        apart = ((inputs[:, None] - inputs) ** 2).sum(axis=2)
        np.fill_diagonal(apart, np.inf)
        dropped = []
        for _ in range(len(self._told) - _KEPT):
            dropped.append(int(apart.min(axis=1).argmin()))
            apart[dropped[-1]] = apart[:, dropped[-1]] = np.inf
        keep = np.delete(np.arange(len(self._told)), worse[dropped])
        self._vectors, self._told = self._vectors[keep], self._told[keep]
        self._violations = self._violations[keep]

    def _plan(self) -> list[np.ndarray]:
        """Return the vectors to be proposed next, from what all results say together."""
        self._planned = self._results
        self._fit()
        vectors = self._search()
        known = {each.tobytes() for each in (*self._vectors, *self._under_way.values())}
        vectors = vectors[[each.tobytes() not in known for each in vectors]]
        if not len(vectors):
            return []
        means = self._means(vectors)
        deviations = np.zeros_like(means)
        for i, model in self._losses.items():
            deviations[:, i] = model.deviation(self._inputs.of(vectors))
        staircase = self._staircase(means)
        chances = self._chances(vectors)
        queue = []
        for _ in range(min(self._plan_size(), len(vectors))):
            gains = chances * staircase.gains(means, deviations)
            # Without any gain in sight, the first in the order of merit is the least bad.
            best = int(np.where(chances < 0.0, -1.0, gains).argmax())
            queue.append(vectors[best])
            staircase.add(means[best])
            chances[best] = -1.0
        return queue

    def _fit(self) -> None:
        is_due = self._results >= _GROWTH * self._optimised
        if is_due:
            self._optimised = self._results
        measured = np.isfinite(self._told).all(axis=1)
        inputs = self._inputs.of(self._vectors[measured])
        for i, model in self._losses.items():
            model.learn(inputs, self._told[measured, i], optimise=is_due)
        if self._is_constrained:
            broken = self._violations
            targets = np.where(broken > 0.0, _MARGIN + broken / (1.0 + broken), -_MARGIN)
            inputs = self._constraint_inputs(self._vectors)
            self._violation.fit(inputs, targets, np.ones(len(targets)))
            if is_due:
                self._violation.optimise()

    @property
    def _is_constrained(self) -> bool:
        return bool((self._violations > 0.0).any())

    def _staircase(self, means: np.ndarray) -> Staircase:
        """Return the front of the feasible results and of the trials under way."""
        feasible = np.isfinite(self._told).all(axis=1) & (self._violations <= 0.0)
        nadir = np.nanmax(self._told, axis=0)
        worst = [_worst(goal) for goal in self.problem.goals]
        corner = [nadir[i] if each is None else each for i, each in enumerate(worst)]
        ideal = np.fmin(np.nanmin(self._told, axis=0), means.min(axis=0))
        staircase = Staircase(ideal, np.array(corner), next(iter(self._losses), 0))
        for losses in self._told[feasible]:
            staircase.add(losses)
        if self._under_way:
            for losses in self._means(np.array(list(self._under_way.values()))):
                staircase.add(losses)
        return staircase

    def _search(self) -> np.ndarray:
        """Return the predicted front, best first, by NSGA-II from the measured one."""
        measured = np.isfinite(self._told).all(axis=1)
        front = self._vectors[measured][is_nondominated(self._told[measured])][:_POPULATION]
        fresh = self._genome.design(max(2, _POPULATION - len(front)), self._rng)
        vectors = np.vstack([front, fresh, self._even])
        losses, violations = self._means(vectors), self._excess(vectors)
        for generation in range(_GENERATIONS + 1):
            if generation:
                children = self._children(vectors)
                vectors = np.vstack([vectors, children])
                losses = np.vstack([losses, self._means(children)])
                violations = np.concatenate([violations, self._excess(children)])
            best = _survivors(vectors, losses, violations)
            vectors, losses, violations = vectors[best], losses[best], violations[best]
        return vectors

    def _children(self, vectors: np.ndarray) -> np.ndarray:
        """Cross and mutate winners of tournaments among vectors that are sorted by merit."""
        rng, genome = self._rng, self._genome
        shape = (_POPULATION, vectors.shape[1])
        first, second = np.minimum(*rng.integers(len(vectors), size=(2, 2, _POPULATION)))
        mixed = rng.random(shape) < rng.choice([0.0, 0.5], size=(_POPULATION, 1))
        children = np.where(mixed, vectors[second], vectors[first])
        steps = rng.normal(size=shape) * _STEP * (genome.high - genome.low)
        steps = np.copysign(np.maximum(np.abs(steps), self._least_step), steps)
        moved = np.where(genome.ordered, children + steps, genome.from_unit(rng.random(shape)))
        rates = rng.choice([1.0, 2.0, 4.0], size=(_POPULATION, 1)) / shape[1]
        mutated = rng.random(shape) < rates
        return genome.snap(np.where(mutated, moved, children))

    def _means(self, vectors: np.ndarray) -> np.ndarray:
        """Return costs and expected losses, shape (n, goals)."""
        inputs = self._inputs.of(vectors)
        means = np.empty((len(vectors), len(self.problem.goals)))
        for i, cost in self._costs.items():
            means[:, i] = cost.share(vectors) * cost.dense
        for i, model in self._losses.items():
            means[:, i] = model.predict(inputs)
        return means

    def _excess(self, vectors: np.ndarray) -> np.ndarray:
        """Return by how much vectors are expected to break constraints, shape (n,)."""
        if not self._is_constrained:
            return np.zeros(len(vectors))
        expected = self._violation.predict(self._constraint_inputs(vectors))
        excess: np.ndarray = np.maximum(expected, 0.0)
        return excess

    def _chances(self, vectors: np.ndarray) -> np.ndarray:
        """Return the probabilities that vectors break no constraint, shape (n,)."""
        if not self._is_constrained:
            return np.ones(len(vectors))
        inputs = self._constraint_inputs(vectors)
        deviation = np.maximum(self._violation.deviation(inputs), 1e-3)
        chances: np.ndarray = ndtr(-self._violation.predict(inputs) / deviation)
        return chances

    def _constraint_inputs(self, vectors: np.ndarray) -> np.ndarray:
        """Return the inputs and the goals, on which most constraints are, as shares of ranges."""
        low, high = np.nanmin(self._told, axis=0), np.nanmax(self._told, axis=0)
        goals = (self._means(vectors) - low) / np.where(high > low, high - low, 1.0)
        return np.hstack([self._inputs.of(vectors), goals])

    def _notes(self) -> dict[str, Any]:
        """Return what planning changes."""
        predictors = [*(each.predictor for each in self._losses.values()), self._violation]
        return {
            "queue": np.array(self._queue).reshape(-1, len(self._genome.low)),
            "planned": self._planned,
            "optimised": self._optimised,
            "hyperparameters": [each.hyperparameters for each in predictors],
        }

    def _recall(self, notes: Mapping[str, Any]) -> None:
        self._queue = list(notes["queue"])
        self._planned, self._optimised = notes["planned"], notes["optimised"]
        predictors = [*(each.predictor for each in self._losses.values()), self._violation]
        for predictor, hyperparameters in zip(predictors, notes["hyperparameters"], strict=True):
            predictor.hyperparameters = hyperparameters

    def state_dict(self) -> dict[str, Any]:
        """Return results, trials under way and the plan as well; models follow from them."""
        vectors = np.array(list(self._under_way.values()))
        return super().state_dict() | {
            "vectors": self._vectors,
            "told": self._told,
            "violations": self._violations,
            "under_way": list(self._under_way),
            "under_way_vectors": vectors.reshape(-1, len(self._genome.low)),
            "notes": self._notes(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._vectors, self._told = state["vectors"], state["told"]
        self._violations = state["violations"]
        self._under_way = dict(zip(state["under_way"], state["under_way_vectors"], strict=True))
        self._recall(state["notes"])


def _survivors(vectors: np.ndarray, losses: np.ndarray, violations: np.ndarray) -> np.ndarray:
    """Return the indices of the next population, best first.

    By violation, rank and crowding (Deb et al., NSGA-II), without repetitions.
    """
    _, unique = np.unique(vectors, axis=0, return_index=True)
    ranks = pareto_rank(losses[unique])
    crowding = np.zeros(len(unique))
    for rank in range(ranks.max() + 1):
        crowding[ranks == rank] = calc_crowding_distance(losses[unique][ranks == rank])
    order = np.lexsort([-crowding, ranks, violations[unique]])
    best: np.ndarray = unique[order[:_POPULATION]]
    return best


def _worst(goal: Goal) -> float | None:
    return None if goal.reference is None else goal.loss(goal.reference)
