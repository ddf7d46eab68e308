"""What is dear to measure is predicted first, and every prediction is held to account.

forecasts = Forecasts(metrics, costs)
forecasts.take(trial)                  # every completed trial, the dense network's first
forecasts.favourable(job, policy)      # {"latency_ms": Measurement(...)}
forecasts.errors()                     # {"latency_ms": ForecastError(count=40, mape=0.03, …)}
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autoprune.contracts.objective import Objective, Predictor
from autoprune.graph.cost import CostTable
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.trial import Measurement, Trial

_FEWEST = 3


@dataclass(frozen=True, slots=True)
class ForecastError:
    """How far predictions were off, each made before its trial was measured.

    `mape` is the mean absolute error as a share of what was measured, `rank_correlation`
    Spearman's (None where all values are equal), `inside` the share of measurements within
    the predicted 95 % interval.
    """

    count: int
    mape: float
    rank_correlation: float | None
    inside: float


class Forecasts:
    """The predictors of a job's metrics; what they say follows from the order of `take`."""

    def __init__(self, metrics: Mapping[str, Objective], costs: CostTable) -> None:
        self._metrics = metrics
        self._costs = costs
        self._predictors: dict[str, Predictor] = {}
        self._pairs: dict[str, list[tuple[Measurement, float]]] = defaultdict(list)

    def take(self, trial: Trial) -> None:
        """Learn from a completed trial; the dense network's brings the surveys.

        Those of higher rungs are passed over: their policies were measured before.
        """
        assert trial.evaluation is not None
        if trial.rung > 0:
            return
        for name, survey in trial.evaluation.surveys.items():
            predictor = self._metrics[name].predictor(survey, self._costs)
            if predictor is not None:
                self._predictors[name] = predictor
        for name, predictor in self._predictors.items():
            measured = trial.evaluation.measurements.get(name)
            if measured is not None and predictor.covers(trial.policy):
                if not trial.policy.is_dense:
                    expected = predictor.predict(trial.policy)
                    self._pairs[name].append((expected, measured.value))
                predictor.learn(trial.policy, measured)

    def favourable(self, job: Job, policy: Policy) -> dict[str, Measurement]:
        """Return the best value to be hoped for, where a hard constraint bounds a metric.

        It is the end of the predicted interval that is kind to the constraint: what breaks
        even so is not worth its measurement.
        """
        found = {}
        for each in job.constraints:
            predictor = self._predictors.get(each.metric)
            if predictor is not None and predictor.covers(policy) and not each.is_soft:
                expected = predictor.predict(policy)
                kind = expected.low if each.relation == "<=" else expected.high
                value = expected.value if kind is None else kind
                found[each.metric] = Measurement(value, note=f"predicted: {expected.value:.4g}")
        return found

    def errors(self) -> dict[str, ForecastError]:
        """Return the errors so far, by metric; nothing where fewer than three were measured."""
        return {x: _error(pairs) for x, pairs in self._pairs.items() if len(pairs) >= _FEWEST}


def _error(pairs: list[tuple[Measurement, float]]) -> ForecastError:
    expected = np.array([each.value for each, _ in pairs])
    measured = np.array([each for _, each in pairs])
    inside = [
        each.low is not None and each.high is not None and each.low <= value <= each.high
        for each, value in pairs
    ]
    return ForecastError(
        len(pairs),
        float(np.mean(np.abs(expected - measured) / measured)),
        _rank_correlation(expected, measured),
        float(np.mean(inside)),
    )


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    from scipy.stats import spearmanr  # slow to import, and needed only where errors are shown

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
