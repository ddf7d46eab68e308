"""Latency predicted from times of layers, corrected by every network that is measured.

Relative to the dense network, the time of a pass is taken to be

    a + b · times of layers + Σ δ_kind · times of layers of a kind + c · bytes written + d · macs
    + e · times of layers in whole numbers + f · how many they are

where times of layers come from the survey at the policy's widths, those in whole numbers as if
they were floats. What layers alone do not show (activations, fusion, whole numbers, the
runtime's own work) is what the coefficients learn. The dense network counts as measured from
the start.

Layers are not surveyed in whole numbers: alone, most of their time is the way from floats to
whole numbers and back, which they do not go beside one another. Nor are they surveyed without
single weights: where a backend skips zeros, what that saves depends on the kernels themselves,
so nothing is predicted of policies that take any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.contracts.objective import Predictor
from autoprune.graph.cost import Costs, CostTable
from autoprune.objectives._latency_regression import RelativeRegression
from autoprune.policy import WHOLE_NUMBERS, Policy
from autoprune.trial import Measurement

# Means and deviations of a, c, d, b, e and f as shares of the dense network's time, and of
# every δ. What three runtimes on a CPU taught lies well within.
_MEANS = (0.15, 0.1, 0.05, 0.7, 0.2, 0.0)
_DEVIATIONS = (0.3, 0.2, 0.3, 0.4, 0.3, 0.15)
_KIND_DEVIATION = 0.2
_NOISE, _TRIALS = 0.05, 4.0


class LatencyPredictor(Predictor):
    """Predicts milliseconds of policies from a survey (`_latency_survey`) and from trials."""

    def __init__(self, survey: Mapping[str, Any], costs: CostTable) -> None:
        self._costs = costs
        self._dense_ms = float(survey["total_ms"])
        self._grids = [LayerGrid(each) for each in survey["grids"]]
        self._layers: Mapping[str, list[int]] = survey["layers"]
        self._whole = frozenset(survey["whole"])
        # Surveys of older runs do not say so: no backend skipped any then.
        self._skips_zeros = bool(survey.get("skips_zeros", False))
        self._dense = costs.by_module(Policy())
        self._total = costs.costs(Policy())
        self._ms_per_mac = self._rate()
        kinds = [0.0] * (len(self._grids) + 1)
        self._layers_ms = float(self._times(self._dense).sum())
        self._regression = RelativeRegression(
            [*_MEANS, *kinds],
            [*_DEVIATIONS, *(_KIND_DEVIATION for _ in kinds)],
            _NOISE,
            _TRIALS,
        )
        self._regression.take(self._row(Policy()), 1.0)

    def covers(self, policy: Policy) -> bool:
        """Say whether times of whole kernels tell that of a policy."""
        return not (self._skips_zeros and policy.is_sparse)

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
        """Return what the regression reads; of the dense network ones, shares of kinds and 0."""
        total, dense = self._costs.costs(policy), self._total
        costs = self._costs.by_module(policy)
        whole = {x: each for x, each in costs.items() if self._is_whole(x, policy)}
        floats = self._times({x: each for x, each in costs.items() if x not in whole})
        as_floats = self._times(whole).sum()
        times, share = floats / self._layers_ms, as_floats / self._layers_ms
        written = total.activation_bytes / dense.activation_bytes
        count = len(whole) / max(1, len(self._whole))
        return np.array([1.0, written, total.macs / dense.macs, times.sum(), share, count, *times])

    def _is_whole(self, name: str, policy: Policy) -> bool:
        """Say whether a layer runs in whole numbers: its kernels and what it reads are some."""
        decision = policy.layer(name)
        bits = max(decision.weight_bits, decision.activation_bits)
        return name in self._whole and bits <= WHOLE_NUMBERS

    def _times(self, costs: Mapping[str, Costs]) -> np.ndarray:
        """Return the milliseconds that layers with these costs take as floats, by kind.

        Shape (grids + 1,). The last ones are those of layers that the survey does not know;
        they go by macs.
        """
        times = np.zeros(len(self._grids) + 1)
        for name in costs:
            dense = self._dense[name]
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
        inputs, outputs = widths_of(costs, dense, *self._dense)
        # Two layers in the place of one write more than it does.
        widths = min(inputs, self._dense[0]), min(outputs, self._dense[1])
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
