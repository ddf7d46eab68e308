"""GP: a Gaussian process per goal, propose what should enlarge the front most."""

from __future__ import annotations

import warnings
from typing import Any

from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError

from ._optuna import Study, revised, violation

# What the model imagines of a running trial costs as much as many results.
_RUNNING = 8
# With five an ask takes a second, with six five and more, and ever longer.
_MOST_GOALS = 5


class GP(Study):
    """Fits one Gaussian process per goal, and proposes by expected hypervolume improvement.

    Optuna's sampler: a Matern kernel with a length per parameter, log expected
    (hypervolume) improvement (Daulton et al., "Differentiable expected hypervolume
    improvement", NeurIPS 2020; Ament et al., "Unexpected improvements to expected
    improvement", NeurIPS 2023), constraints by their probability (Gardner et al., "Bayesian
    optimization with inequality constraints", ICML 2014). Whole numbers are modelled as
    real ones and rounded. The model is fitted on at most `modelled` results: the better
    half by dominance and crowding, and the latest of the others.

    Args:
        startup: Size of the initial design, and how many results modelling waits for.
        modelled: How many results the model is fitted on at most.

    Raises:
        PluginError: A startup below 2, fewer modelled results than the startup, or more than
            five goals.
    """

    def __init__(
        self, problem: SearchProblem, *, seed: int = 0, startup: int = 20, modelled: int = 60
    ) -> None:
        if len(problem.goals) > _MOST_GOALS:
            raise PluginError(
                f"gp takes at most {_MOST_GOALS} objectives, given: {len(problem.goals)}; with "
                "more a proposal takes it many seconds; use surrogate"
            )
        if modelled < startup:
            raise PluginError(f"modelled must be at least startup ({startup}), given: {modelled!r}")
        super().__init__(problem, seed=seed, startup=startup, kept=modelled)
        self._startup = startup

    def _sampler(self, seed: int) -> GPSampler:
        return _Sampler(seed=seed, n_startup_trials=self._startup)

    def _shown(self) -> list[FrozenTrial]:
        trials = super()._shown()
        told = [each for each in trials if each.state.is_finished()]
        running = [each for each in trials if not each.state.is_finished()]
        # A constraint that was never broken would be fitted for nothing.
        if not any(map(violation, told)):
            told = [revised(each, each.values, constrained=False) for each in told]
        return told + running[-_RUNNING:]


class _Sampler(GPSampler):
    """Searches its acquisition function less thoroughly than by default.

    No public option changes the defaults, with which an ask over 30 groups takes more than
    half a second. With half as many starts again, and tolerances as by default, the
    hypervolume after 100 evaluations of 9 and of 27 groups changed by less than 0.005.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._n_preliminary_samples = 256
        self._n_local_search = 2
        self._n_qmc_samples_ehvi = 16
        self._tol = 1e-2

    def sample_relative(self, *args: Any) -> dict[str, Any]:
        """Suggest values without Optuna's advice against more than four objectives."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Box decomposition")
            suggested: dict[str, Any] = super().sample_relative(*args)
        return suggested
