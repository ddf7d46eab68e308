"""Latency before it is measured: widths from costs, times of layers, regression, surveys."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from autoprune.contracts.objective import Subject
from autoprune.graph.cost import Costs
from autoprune.objectives import _latency_survey
from autoprune.objectives._latency_predictor import LatencyPredictor, LayerGrid, widths_of
from autoprune.objectives._latency_regression import RelativeRegression, student
from autoprune.objectives._latency_survey import axis
from autoprune.objectives.latency import Latency
from autoprune.policy import LayerDecision, Policy
from autoprune.trial import Measurement
from tests.carving import Network, planned, policies
from tests.networks import Chain, Depthwise, Residual, built


def mlp() -> tuple[nn.Module, Tensor]:
    layers = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 9), nn.Linear(9, 3))
    return layers.eval().requires_grad_(False), torch.randn(2, 7)


class Grouped(nn.Module):
    """A convolution in groups of three channels each, between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv2d(3, 12, 1)
        self.mid = nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.out = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mid(torch.relu(self.into(x))))).mean((2, 3))


def inputs_of(layer: Any) -> int:
    """Return the inputs of a layer, those of one group of a convolution."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return int(layer.in_channels // layer.groups)


def outputs_of(layer: Any) -> int:
    return int(getattr(layer, "out_features", 0) or layer.out_channels)


@pytest.mark.parametrize("kind", [Residual, Chain, Depthwise, Grouped, "mlp"])
def test_widths_follow_from_costs(kind: Any) -> None:
    network, example = mlp() if kind == "mlp" else built(kind)
    plan, table = planned(network, example)
    assert plan.groups.prunable
    dense = table.by_module(Policy())
    layers = [x for x, each in network.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    for policy in policies(plan.groups, 8):
        carved, costs = plan.carve(policy), table.by_module(policy)
        for name in layers:
            layer, own = network.get_submodule(name), carved.get_submodule(name)
            found = widths_of(costs[name], dense[name], inputs_of(layer), outputs_of(layer))
            assert found == (inputs_of(own), outputs_of(own)), (name, policy.to_json())


def survey_of(network: nn.Module, time: Callable[[int, int], float], total: float) -> Any:
    """Return a survey of a network's layers as if a layer took `time(inputs, outputs)`."""
    grids, layers = [], {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            inputs, outputs = inputs_of(layer), outputs_of(layer)
            along = list(range(1, inputs + 1)), list(range(1, outputs + 1))
            corner = max(1, inputs // 4), max(1, outputs // 4)
            layers[name] = [len(grids)]
            grids.append(
                {
                    "inputs": inputs,
                    "outputs": outputs,
                    "dense_ms": time(inputs, outputs),
                    "along_inputs": [along[0], [time(x, outputs) for x in along[0]]],
                    "along_outputs": [along[1], [time(inputs, x) for x in along[1]]],
                    "corner": [*corner, time(*corner)],
                }
            )
    body = {"total_ms": total, "grids": grids, "layers": layers, "whole": list(layers)}
    return json.loads(json.dumps(body))


def stairs(inputs: int, outputs: int) -> float:
    """Milliseconds that grow in steps of four outputs; odd inputs take a third longer."""
    return 0.02 * inputs * 4 * math.ceil(outputs / 4) * (1 + inputs % 2 / 3)


class Truth:
    """Times of networks whose layers take `stairs`, and all else a constant and macs."""

    def __init__(self) -> None:
        network, example = built(Residual)
        plan, self.table = planned(network, example)
        self.groups, self.network = plan.groups, network
        self.layers = [
            x for x, y in network.named_modules() if isinstance(y, nn.Linear | nn.Conv2d)
        ]
        self.dense = self.table.by_module(Policy())
        self.total = self.ms(Policy())

    def ms(self, policy: Policy) -> float:
        costs, spent = self.table.by_module(policy), 0.0
        for name in self.layers:
            layer = self.network.get_submodule(name)
            spent += stairs(
                *widths_of(costs[name], self.dense[name], inputs_of(layer), outputs_of(layer))
            )
        return 3.0 + 1.3 * spent + 1e-5 * self.table.costs(policy).macs

    def predictor(self) -> LatencyPredictor:
        return LatencyPredictor(survey_of(self.network, stairs, self.total), self.table)

    def policies(self, count: int) -> list[Policy]:
        rng = np.random.default_rng(2)
        names = [each.name for each in self.groups.prunable]
        return [
            self.groups.canonical(
                Policy.from_keep_ratios({name: rng.uniform(0.1, 1.0) for name in names})
            )
            for _ in range(count)
        ]


def test_the_dense_network_counts_as_measured() -> None:
    truth = Truth()
    predictor = truth.predictor()
    expected = predictor.predict(Policy())
    assert expected.value == pytest.approx(truth.total, rel=0.02)
    assert expected.low is not None
    assert expected.high is not None
    assert expected.high - expected.low < 0.5 * truth.total
    predictor.learn(Policy(), Measurement(2 * truth.total))
    assert predictor.predict(Policy()).value == pytest.approx(2 * expected.value)


def test_predictions_become_exact_and_are_honest_before() -> None:
    truth = Truth()
    predictor, inside, widths, errors = truth.predictor(), [], [], []
    for policy in truth.policies(60):
        expected, measured = predictor.predict(policy), truth.ms(policy)
        assert expected.low is not None
        assert expected.high is not None
        inside.append(expected.low <= measured <= expected.high)
        widths.append((expected.high - expected.low) / measured)
        errors.append(abs(expected.value / measured - 1))
        predictor.learn(policy, Measurement(measured))
    assert np.mean(inside) >= 0.95
    assert np.mean(widths[-10:]) < 0.3 * np.mean(widths[:5])
    assert np.mean(errors[:20]) < 0.1
    assert np.mean(errors[-20:]) < 0.01


def test_the_order_of_learning_is_all_that_a_prediction_depends_on() -> None:
    truth = Truth()
    one, other = truth.predictor(), truth.predictor()
    *learned, last = truth.policies(6)
    for predictor in (one, other):
        for policy in learned:
            predictor.learn(policy, Measurement(truth.ms(policy)))
    other.predict(learned[0])
    assert one.predict(last) == other.predict(last)


def test_times_between_the_axes() -> None:
    body = {
        "inputs": 8,
        "outputs": 16,
        "dense_ms": 4.0,
        "along_inputs": [[1, 4, 8], [1.0, 2.0, 4.0]],
        "along_outputs": [[1, 8, 16], [1.0, 3.0, 4.0]],
        "corner": [4, 8, 2.0],
    }

    def ms(inputs: int, outputs: int) -> float:
        costs = Costs(macs=9 * inputs * outputs, params=0, size_bytes=0, activation_bytes=outputs)
        return LayerGrid(body).ms(costs, Costs(9 * 8 * 16, 0, 0, 16))

    # The sources: dense, the axes, between two points, the corner (the product would be 1.5).
    assert [ms(8, 16), ms(1, 16), ms(8, 8), ms(6, 16)] == [4.0, 1.0, 3.0, 3.0]
    assert ms(4, 8) == pytest.approx(2.0)
    assert ms(6, 12) == pytest.approx(3.0 * 3.5 / 4 * (1 + (2 / 1.5 - 1) / 4))
    assert ms(1, 1) == pytest.approx(1.0 * 1.0 / 4 * 2 / 1.5)


def test_layers_that_the_survey_does_not_know_go_by_macs() -> None:
    truth = Truth()
    body = survey_of(truth.network, stairs, truth.total)
    del body["layers"]["one"]
    predictor = LatencyPredictor(body, truth.table)
    assert predictor.predict(Policy()).value == pytest.approx(truth.total, rel=0.02)
    without = LatencyPredictor(
        {"total_ms": 5.0, "grids": [], "layers": {}, "whole": []}, truth.table
    )
    half = truth.groups.canonical(Policy.from_keep_ratios({"stem": 0.5, "one": 0.5}))
    assert 0 < without.predict(half).value < without.predict(Policy()).value


def test_layers_of_a_dropped_block_take_no_time() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.out(x + net.block(x))

    network = Network(
        run, block=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), out=nn.Linear(8, 3)
    ).eval()
    plan, table = planned(network, torch.randn(2, 8))
    (block,) = plan.groups.droppable
    predictor = LatencyPredictor(survey_of(network, stairs, 20.0), table)
    dropped = plan.groups.canonical(Policy(dropped=frozenset({block.name})))
    assert predictor.predict(dropped).value < 0.5 * predictor.predict(Policy()).value


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**31), st.sampled_from([0.02, 0.1]))
@settings(max_examples=25)
def test_regression_against_its_formulas(size: int, count: int, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=size), rng.uniform(0.1, 1.0, size=size)
    rows, values = rng.uniform(0.1, 1.0, (count, size)), rng.uniform(0.5, 2.0, count)
    learned, row = RelativeRegression(means, deviations, noise, 4.0), rng.uniform(size=size)
    for each, value in zip(rows, values, strict=True):
        learned.take(each, float(value))
    value, half = learned.predict(row)
    # The normal-inverse-gamma posterior of all pairs at once, errors relative to the value.
    scaled, before = rows / values[:, None], np.diag((noise / deviations) ** 2)
    after = before + scaled.T @ scaled
    weights = np.linalg.inv(after) @ (before @ means + scaled.T @ np.ones(count))
    misses = 1.0 - scaled @ weights
    moved = weights - means
    variance = (4.0 * noise**2 + misses @ misses + moved @ before @ moved) / (4.0 + count)
    assert value == pytest.approx(float(row @ weights), rel=1e-6, abs=1e-9)
    spread = math.sqrt(variance * (value**2 + row @ np.linalg.inv(after) @ row))
    assert half == pytest.approx(student(4.0 + count) * spread, rel=1e-4)


def test_students_quantile() -> None:
    for freedom in (4, 6, 10, 30, 1000):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.02)


def test_axes_hold_both_ends_and_multiples_of_powers_of_two() -> None:
    assert axis(5, 1, 5) == [1, 2, 3, 4, 5]
    assert axis(20, 1, 4) == [1, 8, 16, 20]
    assert axis(12, 3, 2) == [3, 6, 12]
    assert axis(1, 1, 1) == [1]
    assert axis(64, 1, 1) == [1, 64]


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_survey_of_a_real_network(backend: Any) -> None:
    layers = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    network, example = nn.Sequential(*layers), torch.randn(2, 2, 6, 6)
    subject = Subject(Costs(1, 1, 1), network=network, example=example)
    found = Latency(backend=backend, batch=3).survey(subject)
    assert json.loads(json.dumps(found)) == found
    assert found["total_ms"] > 0
    assert found["layers"] == {"0": [0], "1": [1], "2": [1]}
    first, second = found["grids"]
    assert (first["inputs"], first["outputs"], second["inputs"]) == (2, 3, 3)
    assert first["along_inputs"][0] == [1, 2]
    assert second["along_outputs"][0] == [1, 2, 3]
    assert all(each > 0 for each in second["along_outputs"][1])
    assert network.training
    _, table = planned(network.eval(), example)
    assert Latency().predictor(found, table).predict(Policy()).value > 0


def test_a_survey_without_time_holds_the_ends_of_the_axes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_latency_survey, "_SECONDS", 0.0)
    network = nn.Sequential(nn.Linear(4, 1024), nn.Linear(1024, 1024))
    small, large = _latency_survey.survey(network, torch.randn(8, 4), "torch", 1)["grids"]
    assert large["along_inputs"][0] == large["along_outputs"][0] == [1, 1024]
    assert large["corner"][:2] == [256, 256]
    assert large["dense_ms"] > 3 * small["dense_ms"]
    assert large["dense_ms"] > 3 * large["along_inputs"][1][0]


def with_bits(policy: Policy, names: Sequence[str], bits: LayerDecision) -> Policy:
    return replace(policy, layers=dict.fromkeys(names, bits))


def test_what_whole_numbers_save_is_learned() -> None:
    truth = Truth()
    predictor, rng, errors = truth.predictor(), np.random.default_rng(4), []

    def ms(policy: Policy) -> float:
        """A whole layer takes 0.3 of its time as floats, and a constant for being one."""
        whole = [x for x in truth.layers if policy.layer(x).is_quantised]
        costs = truth.table.by_module(policy)
        spent = 0.0
        for name in whole:
            layer = truth.network.get_submodule(name)
            widths = widths_of(costs[name], truth.dense[name], inputs_of(layer), outputs_of(layer))
            spent += 0.91 * stairs(*widths)
        return truth.ms(policy) - spent + 0.1 * len(whole)

    for policy in truth.policies(60):
        names = [x for x in truth.layers if rng.random() < 0.5]
        policy = with_bits(policy, names, LayerDecision(8, 4))
        errors.append(abs(predictor.predict(policy).value / ms(policy) - 1))
        predictor.learn(policy, Measurement(ms(policy)))
    assert np.mean(errors[:20]) < 0.2
    assert np.mean(errors[-20:]) < 0.03


def test_bits_that_a_backend_does_not_run_change_nothing() -> None:
    truth = Truth()
    body = survey_of(truth.network, stairs, truth.total)
    body["whole"] = ["stem"]
    predictor = LatencyPredictor(body, truth.table)
    dense = predictor.predict(Policy())
    assert predictor.predict(with_bits(Policy(), ["one", "two"], LayerDecision(8, 8))) == dense
    assert predictor.predict(with_bits(Policy(), ["stem"], LayerDecision(8, 16))) == dense
    assert predictor.predict(with_bits(Policy(), ["stem"], LayerDecision(8, 8))).value < dense.value


@pytest.mark.parametrize(("backend", "is_covered"), [("torch", True), ("torch_sparse", False)])
def test_where_zeros_save_time_nothing_is_told_of_single_weights(
    backend: Any, is_covered: bool
) -> None:
    network, example = mlp()
    subject = Subject(Costs(10, 10, 40), network=network, example=example)
    body = Latency(backend=backend).survey(subject)
    predictor = LatencyPredictor(body, planned(network, example)[1])
    sparse = with_bits(Policy(), ["0"], LayerDecision(keep_ratio=0.5))
    assert predictor.covers(sparse) == is_covered
    assert predictor.covers(with_bits(Policy(), ["0"], LayerDecision(8, 8)))
    assert predictor.covers(Policy())
    older = LatencyPredictor({x: body[x] for x in body.keys() - {"skips_zeros"}}, predictor._costs)
    assert older.covers(sparse)


@pytest.mark.parametrize(("backend", "names"), [("torch", []), ("onnx", ["0", "2"])])
def test_a_survey_names_what_runs_in_whole_numbers(backend: Any, names: list[str]) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    subject = Subject(Costs(10, 10, 40), network=network, example=torch.randn(1, 3))
    assert Latency(backend=backend).survey(subject)["whole"] == names
