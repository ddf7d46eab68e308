"""Searchers on top of Optuna's samplers; the trials stay ours, Optuna only reads them."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import moocore
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.space import Choice, Integer, Parameter, Values

from ._proposer import Proposer

# A sampler repeats itself where few levels are left. To ask it again would cost as much as
# before, so steps are taken from what is known, longer by this share of the ranges each time.
_STEP = 0.05
_STEPS = 20


class Study(Proposer):
    """An initial design of `startup` points, then a sampler made anew for every ask.

    Each sampler has a seed of its own. All that it knows is then in the trials: the state is
    a list of them and the generator of the seeds, and nothing is replayed. Asked trials are
    RUNNING, which samplers with a constant liar keep away from. Of the told trials `kept`
    stay, the better half of them by merit and the others by age.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int,
        startup: int,
        kept: int,
        goals: int | None = None,
    ) -> None:
        if startup < 2:
            raise PluginError(f"startup must be at least 2, given: {startup!r}")
        super().__init__(problem, seed=seed, design=startup)
        self._kept = kept
        self._distributions = {x.name: _distribution(x) for x in problem.space.parameters}
        self._free = {name: x for name, x in self._distributions.items() if not x.single()}
        self._storage = _Storage(goals or len(problem.goals))
        self._trials: dict[str, FrozenTrial] = {}
        self._numbered = 0

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler:
        """Return a sampler whose every draw follows from `seed` and the shown trials."""

    def _propose(self) -> Policy | None:
        policy = self._next_designed() or self._sampled() or self._known.draw(self._rng)
        if policy is not None:
            self._put(TrialState.RUNNING, self.problem.space.encode(policy))
        return policy

    def _sampled(self) -> Policy | None:
        """Return a new policy, where the sampler suggests or near to it; None if all are known."""
        suggested = self._genome.vector(self._suggestion())
        for number in range(_STEPS):
            scale = number * _STEP * (self._genome.high - self._genome.low)
            policy = self._decode(self._rng.normal(suggested, scale))
            if self._known.add(policy):
                return policy
        return None

    def _suggestion(self) -> Values:
        self._storage.shown = self._shown()
        sampler = self._sampler(int(self._rng.integers(2**31)))
        # Genetic samplers leave out what mutates: those values are drawn uniformly.
        values = dict(self.problem.space.sample(self._rng))
        return values | self._storage.sample(sampler, self._blocks())

    def _blocks(self) -> list[dict[str, BaseDistribution]]:
        """Return the parameters that are sampled jointly, block by block."""
        return [self._free] if self._free else []

    def _shown(self) -> list[FrozenTrial]:
        """Return the trials that samplers see.

        Each of them has losses: those that were refused before an evaluation, of which the
        violation matters, get the average of the others.
        """
        measured = [each.values for each in self._trials.values() if each.values is not None]
        average = np.mean(measured, axis=0) if measured else np.zeros(len(self.problem.goals))
        return [
            revised(each, average.tolist()) if each.state is TrialState.PRUNED else each
            for each in self._trials.values()
        ]

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        # PRUNED is the finished state that needs no losses. It has nothing to do with
        # pruning networks.
        state = TrialState.PRUNED if losses is None else TrialState.COMPLETE
        self._put(state, values, None if losses is None else losses.tolist(), violation)
        told = [key for key, each in self._trials.items() if each.state.is_finished()]
        if len(told) > self._kept:
            order = np.argsort(merits([self._trials[key] for key in told]), kind="stable")
            worse = order[len(told) // 2 :]
            del self._trials[told[worse.min()]]

    def _put(
        self,
        state: TrialState,
        values: Values,
        losses: list[float] | None = None,
        violation: float = 0.0,
    ) -> None:
        """Store a trial; in the place of the running one with these values, if there is one."""
        key = self._known.key(self.problem.space.decode(values))
        trial = create_trial(
            state=state,
            params=dict(values),
            distributions=self._distributions,
            values=losses,
            constraints={"total": max(0.0, violation)},
        )
        if key in self._trials:
            trial.number = self._trials[key].number
        else:
            self._numbered += 1
            trial.number = self._numbered
        self._trials[key] = trial

    def _forget(self, policy: Policy) -> None:
        key = self._known.key(policy)
        if key in self._trials and not self._trials[key].state.is_finished():
            del self._trials[key]

    def state_dict(self) -> dict[str, Any]:
        """Return the trials in order, beside the generator and what is known."""
        return super().state_dict() | {"trials": [_to_json(each) for each in self._trials.values()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._trials = {}
        for each in state["trials"]:
            self._put(TrialState[each["state"]], each["params"], each["values"], each["violation"])


class _Storage(InMemoryStorage):
    """A study without trials of its own: it shows those in `shown`."""

    def __init__(self, goals: int) -> None:
        super().__init__()
        self.shown: list[FrozenTrial] = []
        with _quiet():
            study = self.create_new_study([StudyDirection.MINIMIZE] * goals, "")
        # Samplers leave notes at the trial that they sample for; its number is 0.
        self._blank = self.get_trial(self.create_new_trial(study))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the shown trials, which nobody changes, so that copies are not needed."""
        return [each for each in self.shown if states is None or each.state in states]

    def sample(
        self, sampler: BaseSampler, blocks: list[dict[str, BaseDistribution]]
    ) -> dict[str, Any]:
        """Return what `sampler` suggests after the shown trials, for each block by itself."""
        suggested: dict[str, Any] = {}
        # The Gaussian process divides by zero where it expects no improvement anywhere.
        with _quiet(), np.errstate(divide="ignore", invalid="ignore"):
            study = optuna.load_study(study_name="", storage=self, sampler=sampler)
            for block in blocks:
                suggested |= sampler.sample_relative(study, self._blank, block)
        return suggested


def revised(
    trial: FrozenTrial, losses: list[float] | None, constrained: bool = True
) -> FrozenTrial:
    """Return a completed copy of `trial` with these losses, and with its violation or without."""
    copied = copy.copy(trial)
    copied.state = TrialState.COMPLETE
    copied.values = losses
    if not constrained:
        copied.system_attrs = {}
    return copied


def merits(trials: list[FrozenTrial]) -> np.ndarray:
    """Return merits, shape (n,), lower is better: by dominance, then by crowding.

    Infeasible trials come after all others, by violation.
    """
    violations = np.array([violation(each) for each in trials])
    feasible = violations == 0.0
    scores = len(trials) + 1.0 + violations
    if feasible.any():
        losses = np.array([each.values for each in trials if violation(each) == 0.0])
        ranks = moocore.pareto_rank(losses)
        crowding = np.zeros(len(ranks))
        for rank in range(ranks.max() + 1):
            crowding[ranks == rank] = calc_crowding_distance(losses[ranks == rank])
        scores[feasible] = ranks + 1.0 / (1.0 + crowding)
    return scores


def violation(trial: FrozenTrial) -> float:
    """Return the summed constraint violation of a stored trial."""
    return float(trial.constraints["total"])


def _to_json(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "state": trial.state.name,
        "params": dict(trial.params),
        "values": trial.values,
        "violation": violation(trial),
    }


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Return how samplers see `parameter`: a whole number as a real one that is rounded.

    Whole numbers, of 30 groups of 64 levels, cost Optuna's Gaussian process 13 s per ask
    instead of 0.5, and TPE twice the time for the same hypervolume.
    """
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.options)
    margin = 0.5 if isinstance(parameter, Integer) and parameter.low < parameter.high else 0.0
    return FloatDistribution(parameter.low - margin, parameter.high + margin)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from announcing studies and advising; its verbosity is restored."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


class Genetic(Study):
    """The options and the bookkeeping of Optuna's genetic samplers.

    Args:
        population: Size of the initial design and of the elite.
        crossover: Probability that a child mixes its parents' parameters.
        mutation: Probability that a parameter mutates; one per child by default.

    Raises:
        PluginError: A population below 4, or a rate outside [0, 1].
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        population: int = 40,
        crossover: float = 0.9,
        mutation: float | None = None,
    ) -> None:
        if population < 4:
            raise PluginError(f"population must be at least 4, given: {population!r}")
        for option, rate in (("crossover", crossover), ("mutation", mutation)):
            if rate is not None and not 0.0 <= rate <= 1.0:
                raise PluginError(f"{option} must be a probability in [0, 1], given: {rate!r}")
        super().__init__(problem, seed=seed, startup=population, kept=2 * population)
        self._goals = len(problem.goals)
        self._options: dict[str, Any] = {
            "population_size": population,
            "crossover_prob": crossover,
            "mutation_prob": mutation,
        }


class Elite(BaseGASampler):
    """Makes every result a candidate parent, where Optuna waits for whole generations."""

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """Return 1: parents come from generation 0."""
        return 1

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return all results."""
        return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the elite of all results, selected anew; none before there are two."""
        if generation == 0 or len(self.get_population(study, 0)) < 2:
            return []
        return list(self.select_parent(study, generation))
