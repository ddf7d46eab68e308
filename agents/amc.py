"""AMC: an agent walks over the groups and learns what each of them may lose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.space import Values

from ._budgets import Budgeted
from ._ddpg import DDPG
from ._front import COSTS
from ._walk import Walk

# Results of others teach a single-budget search if they cost its budget but for so much.
_BAND = 0.05
_KEPT = 600
_BATCH = 64
# Walks that the critic chooses one from. Half of them set out from the best episodes.
_CANDIDATES = 32
_PARENTS = 4
# Share of a parent's actions that change.
_CHANGED = 0.2
# The noise, as multiples of the option: before warm, per result when warm, and at last.
_WARMUP_NOISE, _DECAY, _LEAST_DECAY = 1.5, 0.99, 0.5
# Rewards are compared among episodes whose costs differ by about so much.
_ALIKE = 0.08
# Rises and violations beyond these tell no more.
_WORST_RISE, _WORST_VIOLATION = 2.0, 1.0


class AMC(Budgeted):
    """Decides group by group within a budget of cost, taught by the quality at the end.

    He et al., "AMC: AutoML for model compression and acceleration on mobile devices", ECCV
    2018, on the parameters of any space. Every episode has a budget of its own, which its
    states show, so that one agent serves all costs. Actions are clipped to what the budget
    allows, and also to what is needed to spend it, and the executed ones are learned from.
    States show all earlier actions, since the reward depends on them. The reward is the
    quality beyond what episodes of like cost lead to expect, and results of others are
    episodes whose budget was what they cost. Once warm, the critic chooses among walks by
    the actor and near the best episodes, all with noise.

    Args:
        target: Share of the dense network's cost that every episode has as its budget, as
            in the paper; without it the whole range is covered.
        warmup: How many results the search waits for before it trusts actor and critic.
        noise: Standard deviation of the noise on actions when warm; it decays to half.
        hidden: Width of the two hidden layers of actor and critic.

    Raises:
        PluginError: An option out of bounds, a target out of reach, a space of a single
            network, or no goal that says what quality is lost.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        target: float | None = None,
        warmup: int = 30,
        noise: float = 0.2,
        hidden: int = 64,
    ) -> None:
        names = [goal.name for goal in problem.goals]
        self._qualities = [index for index, name in enumerate(names) if name not in COSTS]
        if not self._qualities:
            raise PluginError(
                f"all goals are costs: {', '.join(names)}; add an objective that says what "
                "quality is lost, such as error"
            )
        for option, value in (("warmup", warmup), ("hidden", hidden)):
            if value < 1:
                raise PluginError(f"{option} must be at least 1, given: {value!r}")
        if not 0.0 < noise <= 1.0:
            raise PluginError(f"noise must be in (0, 1], given: {noise!r}")
        super().__init__(problem, seed=seed, target=target)
        self._warmup = warmup
        self._noise = noise
        if (self._genome.low == self._genome.high).all():
            raise PluginError("the space holds a single network: there is nothing to decide on")
        self._walk = Walk(problem, self._genome, self._costs)
        self._check_reach()
        self._agent = DDPG(self._walk.features, hidden, self._rng)
        self._actions = np.empty((0, self._walk.steps))
        self._progress = np.empty((0, self._walk.steps, self._walk.changing))
        # One row per episode: cost, reward.
        self._ends = np.empty((0, 2))
        self._ranked = np.empty((0, len(self._genome.low)))

    def _range(self) -> tuple[float, float]:
        return self._walk.range

    def _at(self, budget: float, attempt: int) -> np.ndarray | None:
        if attempt == 0:
            self._ranked = self._candidates(budget)
        if attempt >= len(self._ranked):
            return None
        vector: np.ndarray = self._ranked[attempt]
        return vector

    def _candidates(self, budget: float) -> np.ndarray:
        """Return different vectors of the genome for a budget, the most promising first."""
        is_warm = len(self._ends) >= self._warmup
        spent = len(self._ends) - self._warmup
        decay = max(_LEAST_DECAY, _DECAY**spent) if is_warm else _WARMUP_NOISE
        noise = decay * self._noise
        parents = self._parents(budget, noise) if is_warm else np.empty((0, self._walk.steps))

        def act(step: int, states: np.ndarray) -> np.ndarray:
            free = states[len(parents) :]
            shaken = self._agent.act(free) + noise * self._rng.normal(size=len(free))
            wanted: np.ndarray = np.concatenate([parents[:, step], shaken]).clip(0.0, 1.0)
            return wanted

        paths = self._walk.take(np.full(_CANDIDATES, budget), act)
        vectors = paths.vectors
        if is_warm:
            last = np.full(_CANDIDATES, self._walk.steps - 1)
            states = self._walk.states(last, paths.actions, paths.progress[:, -1])
            worth = self._agent.worth(states, paths.actions[:, -1])
            vectors = vectors[(-worth).argsort(kind="stable")]
        first = np.sort(np.unique(vectors, axis=0, return_index=True)[1])
        ranked: np.ndarray = vectors[first]
        return ranked

    def _parents(self, budget: float, noise: float) -> np.ndarray:
        """Return actions, shape (n, steps), near those of the best episodes of like cost."""
        away = np.abs(self._ends[:, 0] - budget) / _ALIKE
        best = (away - self._advantages()).argsort(kind="stable")[:_PARENTS]
        parents = self._actions[np.resize(best, _CANDIDATES // 2)]
        draws = self._rng.random(parents.shape)
        changed = (draws < _CHANGED) | (draws == draws.min(axis=1, keepdims=True))
        shaken: np.ndarray = parents + changed * 2 * noise * self._rng.normal(size=parents.shape)
        return shaken

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        super()._learn(values, losses, violation)
        vector = self._genome.vector(values)
        cost = self._cost(vector, losses)
        budget = cost
        if self._target is not None and abs(cost - self._target) > _BAND:
            budget = self._target
        path = self._walk.retrace(vector, budget)
        # Under its own cost a walk is clipped only where costs do not grow with levels.
        if not np.array_equal(path.vectors[0], vector):
            return
        reward = -self._rise(losses) - min(violation, _WORST_VIOLATION)
        self._actions = np.vstack([self._actions, path.actions])[-_KEPT:]
        self._progress = np.vstack([self._progress, path.progress])[-_KEPT:]
        self._ends = np.vstack([self._ends, [[cost, reward]]])[-_KEPT:]
        self._train()

    def _rise(self, losses: np.ndarray | None) -> float:
        """Return how much worse than dense a result is, 1.0 being the worst of interest."""
        if losses is None:
            return 1.0
        rises = []
        for index in self._qualities:
            goal, dense = self.problem.goals[index], self.problem.dense
            zero = goal.loss(dense.value(goal.name)) if dense else 0.0
            unit = goal.loss(goal.reference) - zero if goal.reference is not None else 1.0
            rises.append((losses[index] - zero) / (unit if unit > 0.0 else 1.0))
        return float(np.clip(np.mean(rises), -_WORST_RISE, _WORST_RISE))

    def _advantages(self) -> np.ndarray:
        """Return by how many deviations every reward exceeds those of like cost."""
        costs, rewards = self._ends.T
        nearness = np.exp(-0.5 * ((costs[:, None] - costs) / _ALIKE) ** 2)
        nearness /= nearness.sum(axis=1, keepdims=True)
        excess = rewards - nearness @ rewards
        deviation = np.sqrt(nearness @ excess**2)
        # Where all rewards are alike, small differences are noise.
        advantages: np.ndarray = excess / (deviation + 0.02 * rewards.std() + 1e-6)
        return advantages

    def _train(self) -> None:
        """Learn from batches of transitions, as many as a walk has steps."""
        advantages, last = self._advantages(), self._walk.steps - 1
        for _ in range(self._walk.steps):
            rows = self._rng.integers(len(self._ends), size=_BATCH)
            steps = self._rng.integers(last + 1, size=_BATCH)
            later = np.minimum(steps + 1, last)
            actions = self._actions[rows]
            self._agent.update(
                self._walk.states(steps, actions, self._progress[rows, steps]),
                actions[np.arange(_BATCH), steps],
                np.where(steps == last, advantages[rows], np.nan),
                self._walk.states(later, actions, self._progress[rows, later]),
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the agent and the episodes that it learns from as well."""
        return super().state_dict() | {
            "agent": self._agent.state_dict(),
            "actions": self._actions,
            "progress": self._progress,
            "ends": self._ends,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._agent.load_state_dict(state["agent"])
        for name in ("actions", "progress", "ends"):
            setattr(self, f"_{name}", np.asarray(state[name], dtype=np.float64))
