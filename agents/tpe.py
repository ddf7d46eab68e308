"""TPE: model where good and bad trials lie, propose where good outweighs bad."""

from __future__ import annotations

from optuna.samplers import TPESampler

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError

from ._optuna import Study


class TPE(Study):
    """Models the parameters of good and of other trials, all parameters jointly.

    Optuna's multivariate, multi-objective tree-structured Parzen estimator (Watanabe,
    "Tree-structured Parzen estimator", 2023; Ozaki et al., "Multiobjective TPE", JAIR
    2022), with running trials counted as bad ones, so that several may be under way.

    Args:
        startup: How many results are awaited, with random proposals, before modelling.
        candidates: How many samples of the good model compete for a proposal.

    Raises:
        PluginError: Fewer than one startup trial or candidate.
    """

    def __init__(
        self, problem: SearchProblem, *, seed: int = 0, startup: int = 20, candidates: int = 24
    ) -> None:
        for option, count in (("startup", startup), ("candidates", candidates)):
            if count < 1:
                raise PluginError(f"tpe: {option} must be at least 1, given: {count!r}")
        super().__init__(problem, seed=seed)
        self._startup = startup
        self._candidates = candidates

    def _sampler(self, seed: int) -> TPESampler:
        return TPESampler(
            n_startup_trials=self._startup,
            n_ei_candidates=self._candidates,
            seed=seed,
            multivariate=True,
            constant_liar=True,
        )
