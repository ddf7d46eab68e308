"""Searchers on top of Optuna's samplers, through ask and tell of an in-memory study."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.space import Choice, Integer, Parameter, Values

from ._proposer import Proposer

# A sampler repeats itself where few levels are left; every repetition costs a full ask.
_RETRIES = 5


class Study(Proposer):
    """An initial design of `startup` points, then a sampler made anew for every ask.

    Each sampler has a seed of its own. All that it knows is then in the study's trials: the
    state is a list of them and the generator of the seeds, and nothing is replayed. Asked
    trials stay RUNNING in the study, which samplers with a constant liar keep away from.
    """

    def __init__(self, problem: SearchProblem, *, seed: int, startup: int) -> None:
        if startup < 2:
            raise PluginError(f"startup must be at least 2, given: {startup!r}")
        super().__init__(problem, seed=seed, design=startup)
        self._distributions = {each.name: _distribution(each) for each in problem.space.parameters}
        self._restart()

    def _restart(self) -> None:
        self._running: dict[str, optuna.Trial] = {}
        with _quiet():
            self._study = optuna.create_study(directions=["minimize"] * len(self.problem.goals))

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler:
        """Return a sampler whose every draw follows from `seed` and the study's trials."""

    def _propose(self) -> Policy | None:
        policy = self._next_designed()
        if policy is None:
            policy = self._sampled()
            if policy is not None:
                return policy
            policy = self._known.draw(self._rng)
        if policy is not None:
            self._start(self.problem.space.encode(policy), policy)
        return policy

    def _sampled(self) -> Policy | None:
        """Return a new policy of the sampler's, its trial RUNNING; None if it repeats itself."""
        for _ in range(_RETRIES):
            self._study.sampler = self._sampler(int(self._rng.integers(2**31)))
            trial = self._study.ask(self._distributions)
            policy = self.problem.space.decode(trial.params)
            if self._known.add(policy):
                self._running[self._known.key(policy)] = trial
                return policy
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _start(self, values: Values, policy: Policy) -> None:
        """Open a RUNNING trial with these values."""
        # Every parameter is fixed, so this sampler draws nothing; it only has to be cheap.
        self._study.sampler = RandomSampler(seed=0)
        self._study.enqueue_trial(dict(values))
        self._running[self._known.key(policy)] = self._study.ask(self._distributions)

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        # Optuna reads no values of an infeasible trial, and PRUNED is the finished state
        # that needs none. It has nothing to do with pruning networks.
        state = TrialState.PRUNED if losses is None else TrialState.COMPLETE
        results = None if losses is None else losses.tolist()
        trial = self._running.pop(self._known.key(self.problem.space.decode(values)), None)
        if trial is not None:
            trial.set_constraint("total", violation)
            self._study.tell(trial, results, state)
        else:
            self._insert(state, dict(values), results, {"total": violation})

    def _insert(
        self,
        state: TrialState,
        params: dict[str, Any],
        values: list[float] | None,
        constraints: dict[str, float],
    ) -> None:
        self._study.add_trial(
            create_trial(
                state=state,
                params=params,
                distributions=self._distributions,
                values=values,
                constraints=constraints,
            )
        )

    def _forget(self, policy: Policy) -> None:
        trial = self._running.pop(self._known.key(policy), None)
        if trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)

    def state_dict(self) -> dict[str, Any]:
        """Return the study's trials in order, beside the generator and what is known."""
        # Failed trials teach a sampler nothing.
        useful = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        trials = self._study.get_trials(deepcopy=False, states=useful)
        return super().state_dict() | {"trials": [_to_json(trial) for trial in trials]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._restart()
        for each in state["trials"]:
            kind = TrialState[each["state"]]
            if kind is TrialState.RUNNING:
                self._start(each["params"], self.problem.space.decode(each["params"]))
            else:
                self._insert(kind, dict(each["params"]), each["values"], each["constraints"])


def _to_json(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "state": trial.state.name,
        "params": dict(trial.params),
        "values": trial.values,
        "constraints": dict(trial.constraints),
    }


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.options)
    if isinstance(parameter, Integer):
        return IntDistribution(parameter.low, parameter.high)
    return FloatDistribution(parameter.low, parameter.high)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from announcing the study; its verbosity is restored afterwards."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
