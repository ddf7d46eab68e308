"""Latency: what is measured and reported beside the dense network, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.objective import Objective, Subject
from autoprune.errors import InputError
from autoprune.graph.cost import Costs
from autoprune.objectives.latency import Latency
from autoprune.policy import LayerDecision
from autoprune.runtimes import onnx_runtime
from autoprune.testing import ObjectiveContract
from autoprune.trial import Measurement
from tests.carving import Network
from tests.quantised import every, quantised

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


@pytest.mark.parametrize("backend", ["torch", "torch_compile"])
def test_the_preferred_multiple_is_that_of_the_backend_uncompiled(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "compile")
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    subject = Subject(SMALL, network=network, example=torch.randn(2, 16))
    assert Latency(backend=backend).preferred_multiple(subject) in (1, 2, 4)


def quantised_subject(bits: LayerDecision) -> tuple[Subject, Subject]:
    dense = convolutions(16, LARGE)
    assert dense.network is not None
    plain = nn.Sequential(*(x for x in dense.network if not isinstance(x, nn.BatchNorm2d)))
    made = quantised(plain, torch.randn(4, 3, 32, 32), every(plain, bits))
    return Subject(SMALL, network=made, example=dense.example), dense


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("torch", "PyTorch runs quantised layers in float32"),
        ("onnx", "0, 2: 4-bit kernels run as 8-bit whole numbers"),
        ("torchao", "torchao has no whole numbers for Conv2d: it runs in float32"),
    ],
)
def test_what_runs_otherwise_stands_in_the_note(backend: Any, said: str) -> None:
    subject, dense = quantised_subject(LayerDecision(4, 8))
    latency = Latency(backend=backend, precision=0.3, seconds=0.1)
    assert said in latency.measure(beside(subject, dense, 1.0)).note
    assert said in latency.measure(subject).note


def test_whole_numbers_are_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bytes] = []

    class Noted(onnx_runtime.OnnxRunner):
        def __init__(self, model: bytes, *rest: Any) -> None:
            loaded.append(model)
            super().__init__(model, *rest)

    monkeypatch.setattr(onnx_runtime, "OnnxRunner", Noted)
    subject, _ = quantised_subject(LayerDecision(8, 8))
    found = Latency(backend="onnx", precision=0.3, seconds=0.1).measure(subject)
    assert "QuantizeLinear" in str(onnx.load_from_string(loaded[-1]))
    assert found.value > 0
