"""TPE: model where good and bad trials lie, propose where good outweighs bad."""

from __future__ import annotations

from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError

from ._optuna import Study, merits, revised

# Parameters per model. On chains of 9 and 27 groups, 300 evaluations reached a hypervolume
# of 0.79 and 0.74 with four, 0.78 and 0.59 with six, 0.61 and 0.54 with all in one model.
_BLOCK = 4
# A proposal's time grows with the trials in the models; 300 of them found no more.
_KEPT = 120


class TPE(Study):
    """Models the parameters of good and of other trials, four parameters at a time.

    Optuna's tree-structured Parzen estimator (Watanabe, "Tree-structured Parzen
    estimator", 2023) over random blocks of parameters, new ones for every proposal. Good are
    the first tenth of the trials by rank of dominance, then by crowding (after Ozaki et al.,
    "Multiobjective TPE", JAIR 2022), feasible ones before others. Running trials count as
    bad ones, so that several may be under way.

    Args:
        startup: Size of the initial design, and how many results modelling waits for.
        candidates: How many samples of the good model compete for a block's values.

    Raises:
        PluginError: A startup below 2 or above 120, or no candidate.
    """

    def __init__(
        self, problem: SearchProblem, *, seed: int = 0, startup: int = 20, candidates: int = 12
    ) -> None:
        if startup > _KEPT:
            raise PluginError(f"startup must be at most {_KEPT}, given: {startup!r}")
        if candidates < 1:
            raise PluginError(f"candidates must be at least 1, given: {candidates!r}")
        super().__init__(problem, seed=seed, startup=startup, kept=_KEPT, goals=1)
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

    def _shown(self) -> list[FrozenTrial]:
        trials = list(self._trials.values())
        told = [each for each in trials if each.state.is_finished()]
        scores = dict(zip((each.number for each in told), merits(told).tolist(), strict=True))
        # Ranked here once, and not by Optuna for every block.
        return [
            revised(each, [scores[each.number]], constrained=False)
            if each.number in scores
            else each
            for each in trials
        ]

    def _blocks(self) -> list[dict[str, BaseDistribution]]:
        names = self._rng.permutation(list(self._free)).tolist()
        return [
            {name: self._free[name] for name in names[start : start + _BLOCK]}
            for start in range(0, len(names), _BLOCK)
        ]
