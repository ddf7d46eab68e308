"""Latency predicted from times of layers, corrected by every network that is measured.

Relative to the dense network, the time of a pass is taken to be

    a + b · times of layers + Σ δ_kind · times of layers of a kind + c · bytes written + d · macs

where times of layers come from the survey at the policy's widths. What layers alone do not
show (activations, fusion, the runtime's own work) is what the coefficients learn. The dense
network counts as measured from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.contracts.objective import Predictor
from autoprune.graph.cost import Costs, CostTable
from autoprune.objectives._latency_regression import RelativeRegression
from autoprune.policy import Policy
from autoprune.trial import Measurement

# Means and deviations of a, c, d and b as shares of the dense network's time, and of every δ.
# What three runtimes on a CPU taught lies well within.
_MEANS = (0.15, 0.1, 0.05, 0.7)
_DEVIATIONS = (0.3, 0.2, 0.3, 0.4)
_KIND_DEVIATION = 0.2
_NOISE, _TRIALS = 0.05, 4.0


class LatencyPredictor(Predictor):
    """Predicts milliseconds of policies from a survey (`_latency_survey`) and from trials."""

    def __init__(self, survey: Mapping[str, Any], costs: CostTable) -> None:
        self._costs = costs
        self._dense_ms = float(survey["total_ms"])
        self._grids = [LayerGrid(each) for each in survey["grids"]]
        self._layers: Mapping[str, list[int]] = survey["layers"]
        self._dense = costs.by_module(Policy())
        self._total = costs.costs(Policy())
        self._ms_per_mac = self._rate()
        dense = self._times(self._dense)
        self._layers_ms = dense.sum()
        self._regression = RelativeRegression(
            [*_MEANS, *(0.0 for _ in dense)],
            [*_DEVIATIONS, *(_KIND_DEVIATION for _ in dense)],
            _NOISE,
            _TRIALS,
        )
        self._regression.take(self._row(Policy()), 1.0)

    def predict(self, policy: Policy) -> Measurement:
        """Return the milliseconds to expect, and where 95 % of measurements will lie."""
        share, half = self._regression.predict(self._row(policy))
        ms = self._dense_ms
        return Measurement(ms * share, ms * max(0.0, share - half), ms * (share + half))

    def learn(self, policy: Policy, measured: Measurement) -> None:
        """Take in a trial; that of the dense network sets the scale."""
        if policy.is_dense:
            self._dense_ms = measured.value
        else:
            self._regression.take(self._row(policy), measured.value / self._dense_ms)

    def _row(self, policy: Policy) -> np.ndarray:
        """Return what the regression reads, of the dense network ones and shares of kinds."""
        total, dense = self._costs.costs(policy), self._total
        times = self._times(self._costs.by_module(policy)) / self._layers_ms
        written = total.activation_bytes / dense.activation_bytes
        return np.array([1.0, written, total.macs / dense.macs, times.sum(), *times])

    def _times(self, costs: Mapping[str, Costs]) -> np.ndarray:
        """Return the milliseconds of layers by kind, shape (grids + 1,).

        The last ones are those of layers that the survey does not know; they go by macs.
        """
        times = np.zeros(len(self._grids) + 1)
        for name, dense in self._dense.items():
            for place in self._layers.get(name, ()):
                times[place] += self._grids[place].ms(costs[name], dense)
            if name not in self._layers:
                times[-1] += self._ms_per_mac * costs[name].macs
        return times

    def _rate(self) -> float:
        """Return the milliseconds of a multiply-accumulate in layers that the survey knows."""
        known = [name for name in self._layers if name in self._dense]
        macs = sum(self._dense[name].macs for name in known)
        ms = sum(self._grids[place].dense_ms for name in known for place in self._layers[name])
        return ms / macs if macs else 1.0


def widths_of(costs: Costs, dense: Costs, inputs: int, outputs: int) -> tuple[int, int]:
    """Return inputs and outputs of a layer that costs `costs`, from those of the `dense` one.

    What it writes goes with its outputs, its macs with inputs (of a group) times outputs.
    """
    narrower = costs.activation_bytes / dense.activation_bytes
    return round(costs.macs / dense.macs / narrower * inputs), round(narrower * outputs)


class LayerGrid:
    """Times of one kind of layer at every pair of widths.

    Along either axis they are what was measured, or lie between. The two go together as a
    product, but for a factor that grows with the distance from both axes; the corner tells it.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.dense_ms = float(body["dense_ms"])
        self._dense = (body["inputs"], body["outputs"])
        self._axes = (body["along_inputs"], body["along_outputs"])
        self._corner = body["corner"][:2]
        self._known: dict[tuple[int, int], float] = {}
        self._factor = float(body["corner"][2]) / self._product(self._corner)

    def ms(self, costs: Costs, dense: Costs) -> float:
        """Return the time of a layer that costs `costs`, and in the dense network `dense`."""
        if costs.macs == 0:
            return 0.0
        widths = widths_of(costs, dense, *self._dense)
        if widths not in self._known:
            self._known[widths] = self._at(widths)
        return self._known[widths]

    def _at(self, widths: tuple[int, int]) -> float:
        share = 1.0
        for width, full, corner in zip(widths, self._dense, self._corner, strict=True):
            share *= min(1.0, (full - width) / (full - corner)) if full > corner else 0.0
        return self._product(widths) * (1.0 + (self._factor - 1.0) * share)

    def _product(self, widths: Sequence[int]) -> float:
        (inputs, outputs), (by_inputs, by_outputs) = widths, self._axes
        along = float(np.interp(inputs, *by_inputs)), float(np.interp(outputs, *by_outputs))
        return along[0] * along[1] / self.dense_ms
