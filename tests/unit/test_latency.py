"""Latency: what is reported beside the dense network, the survey, and what is predicted from it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from autoprune.contracts.objective import Objective, Subject
from autoprune.errors import InputError
from autoprune.graph.cost import Costs, CostTable
from autoprune.objectives._latency_predictor import LatencyPredictor, LayerGrid, widths_of
from autoprune.objectives._latency_regression import RelativeRegression, student
from autoprune.objectives._latency_survey import axis
from autoprune.objectives.latency import Latency
from autoprune.policy import Policy
from autoprune.runtimes import onnx_runtime
from autoprune.testing import ObjectiveContract
from autoprune.trial import Measurement
from tests.carving import Network, planned, policies
from tests.networks import Chain, Depthwise, Residual, built

SMALL, LARGE = Costs(100, 10, 40), Costs(1000, 100, 400)


def convolutions(width: int, costs: Costs = SMALL) -> Subject:
    layers = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3)
    ).eval()
    return Subject(costs, network=layers, example=torch.randn(2, 3, 32, 32))


def beside(subject: Subject, dense: Subject, known: float | None = None) -> Subject:
    """Return a subject beside a dense network, of which `known` milliseconds are known."""
    values = {} if known is None else {"latency_ms": Measurement(known)}
    light = Subject(dense.costs, network=dense.network, example=dense.example, known=values)
    return Subject(subject.costs, network=subject.network, example=subject.example, dense=light)


class TestLatencyAlone(ObjectiveContract):
    def make(self) -> Objective:
        return Latency(batch=4, precision=0.1, seconds=0.2)

    def better(self) -> Subject:
        return convolutions(4)

    def worse(self) -> Subject:
        return convolutions(128)


class TestLatencyBesideTheDenseNetwork(TestLatencyAlone):
    dense = convolutions(64)

    def better(self) -> Subject:
        return beside(convolutions(4), self.dense, 5.0)

    def worse(self) -> Subject:
        return beside(convolutions(128), self.dense, 5.0)


def test_the_value_is_a_ratio_times_what_is_known_of_the_dense_network() -> None:
    subject = beside(convolutions(8), convolutions(64, LARGE), known=1000.0)
    found = Latency(precision=0.1, seconds=0.2).measure(subject)
    ratio = found.parts["ratio"]
    assert ratio.low is not None
    assert ratio.high is not None
    assert found.value == 1000.0 * ratio.value
    assert (found.low, found.high) == (1000.0 * ratio.low, 1000.0 * ratio.high)
    assert ratio.value < 0.8
    now = found.parts["own_ms"].value / found.parts["dense_ms"].value
    assert ratio.value == pytest.approx(now, rel=0.3)
    assert "slower" not in found.note


def test_while_nothing_is_known_the_value_is_what_was_timed() -> None:
    dense = convolutions(8)
    found = Latency(precision=0.2, seconds=0.2).measure(beside(dense, dense))
    own = found.parts["own_ms"]
    assert (found.value, found.low, found.high) == (own.value, own.low, own.high)
    assert found.parts["ratio"].value == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("macs", [500, 2000])
def test_fewer_macs_and_slower_is_said(macs: int) -> None:
    subject = beside(convolutions(128, Costs(macs, 1, 1)), convolutions(8, LARGE), known=1.0)
    found = Latency(precision=0.2, seconds=0.2).measure(subject)
    said = "slower than the dense network although it has fewer macs" in found.note
    assert said == (macs < LARGE.macs)


def test_batches_are_copies_of_the_first_sample() -> None:
    seen: list[tuple[int, ...]] = []

    def watched(_: nn.Module, x: Tensor) -> Tensor:
        assert torch.equal(x, x[:1].expand_as(x))
        seen.append(tuple(x.shape))
        return x

    subject = Subject(SMALL, network=Network(watched), example=torch.randn(2, 3, 5, 5))
    Latency(batch=4, seconds=0.01).measure(subject)
    assert set(seen) == {(4, 3, 5, 5)}


def test_the_dense_network_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[onnx_runtime.OnnxRunner] = []

    class Counted(onnx_runtime.OnnxRunner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            loaded.append(self)

    monkeypatch.setattr(onnx_runtime, "OnnxRunner", Counted)
    latency, dense = Latency(backend="onnx", precision=0.2, seconds=0.2), convolutions(16)
    for width in (4, 8):
        latency.measure(beside(convolutions(width), dense, known=1.0))
    assert len(loaded) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"precision": 0.0}, "between 0 and 1"),
        ({"seconds": 0.0}, "greater than 0"),
    ],
)
def test_nonsense_is_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Latency(**options)


def test_the_device_of_the_option_is_the_one_that_is_checked() -> None:
    with pytest.raises(InputError, match="backend onnx runs on the CPU"):
        Latency(backend="onnx").check("cuda")
    Latency(backend="onnx", device="cpu").check("cuda")
    with pytest.raises(InputError, match="a CUDA graph runs on a GPU"):
        Latency(backend="cuda_graph").check("cpu")


def test_reading_a_run_needs_neither_torch_nor_runtimes() -> None:
    code = """
import sys
from autoprune import plugins
for name in plugins.names("objective"):
    plugins.load("objective", name)()
assert not {"torch", "autoprune.runtimes", "onnxruntime", "openvino"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
    return json.loads(json.dumps({"total_ms": total, "grids": grids, "layers": layers}))


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
    without = LatencyPredictor({"total_ms": 5.0, "grids": [], "layers": {}}, truth.table)
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
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    subject = Subject(SMALL, network=network, example=torch.randn(2, 2, 6, 6))
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
    table = table_of(network, subject)
    assert Latency().predictor(found, table).predict(Policy()).value > 0


@pytest.mark.parametrize("backend", ["torch", "torch_compile"])
def test_the_preferred_multiple_is_that_of_the_backend_uncompiled(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "compile")
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    subject = Subject(SMALL, network=network, example=torch.randn(2, 16))
    assert Latency(backend=backend).preferred_multiple(subject) in (1, 2, 4)


def table_of(network: nn.Module, subject: Subject) -> CostTable:
    assert subject.example is not None
    return planned(network.eval(), subject.example)[1]
