"""Quantised networks in whole numbers: what runtimes compute is what PyTorch computes."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from autoprune.errors import ExportError, InputError
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.policy import LayerDecision
from autoprune.quantization.form import attach, kernels_of, quantised_layers
from autoprune.runtimes.catalog import create
from autoprune.runtimes.qdq_pair import Pair
from autoprune.runtimes.runtime import batches_of
from autoprune.surgery.folding import fold
from autoprune.tracing.discovery import discover
from tests.carving import Network
from tests.networks import Concat, Depthwise, Residual, built
from tests.quantised import every, quantised
from tests.zoo import entry

INT8 = LayerDecision(8, 8)


def mlp() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 9), nn.Linear(9, 3))
    return layers, torch.randn(64, 7)


def distance(outputs: Tensor, expected: Tensor) -> float:
    """Return the root mean square of a difference as a share of that of what is expected."""
    return float((outputs - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def same_numbers(outputs: Tensor, expected: Tensor) -> bool:
    """Say whether nine of ten rows are equal, up to how coarse a bias is.

    Where a value lies halfway between two steps, it may fall to either side.
    """
    rows = torch.isclose(outputs, expected, atol=2e-3, rtol=1e-4).all(dim=1)
    return float(rows.float().mean()) >= 0.9


def folded(kind: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    network, example = (
        built(kind) if isinstance(kind, type) else (kind(), torch.randn(2, 3, 12, 12))
    )
    return fold(network.eval(), discover(network, example).foldable), example


def operations(model: bytes, tmp_path: Any) -> Counter[str]:
    """Return what ONNX Runtime makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


@given(
    st.floats(1e-3, 10.0),
    st.integers(2, 7),
    st.floats(0.0, 1.0),
    st.floats(0.0, 8.0),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40),
)
def test_a_finer_grid_holds_the_coarse_one(
    step: float, bits: int, share: float, wider: float, places: list[float]
) -> None:
    most = 2**bits - 1
    pair = Pair(step, round(share * most), bits)
    low = -step * pair.zero * (1 + wider)
    high = step * (most - pair.zero) * (1 + wider)
    fine = pair.refined(low, high)
    assert fine.bits == 8
    ratio = pair.step / fine.step
    assert round(ratio) % 2 == 1
    assert ratio == pytest.approx(round(ratio))
    values = low + np.array(places) * (high - low)
    # Halfway between two steps either one is right, and floats are halfway only nearly.
    away = np.abs(values / step % 1 - 0.5) > 1e-6
    covered = fine.step * (np.array([0, 255]) - fine.zero)
    inside = away & (values >= covered[0]) & (values <= covered[1])
    twice = np.round(fine.step * np.round(values / fine.step) / step)
    assert np.array_equal(twice[inside], np.round(values / step)[inside])
    if wider < 1.0:  # twice the range in 8 bits leaves room for 7
        assert covered[0] <= low + fine.step
        assert covered[1] >= high - fine.step


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_a_pair_covers_its_range_and_zero(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    pair = Pair.over(low, high)
    assert 0 <= pair.zero <= 255
    assert pair.step * (0 - pair.zero) <= min(low, 0) + pair.step
    assert pair.step * (255 - pair.zero) >= max(high, 0) - pair.step


@pytest.fixture(scope="module")
def runtime() -> Any:
    """One runtime: networks of one structure are converted in full once."""
    return create("onnx")


@pytest.mark.parametrize("weights", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("inputs", [3, 8, 16, 32])
def test_linear_layers_compute_the_same_numbers(runtime: Any, weights: int, inputs: int) -> None:
    network, samples = mlp()
    made = quantised(network, samples, every(network, LayerDecision(weights, inputs)))
    state = {name: each.clone() for name, each in made.state_dict().items()}
    runner = runtime.build(made, samples[:16])
    assert same_numbers(runner.logits(samples), made(samples))
    assert set(state) == set(made.state_dict())
    assert all(torch.equal(each, state[name]) for name, each in made.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [
        (Residual, {"QLinearConv": 3}),
        (partial(CifarResNet, 8), {"QLinearConv": 7, "QLinearAdd": 2}),
        (Depthwise, {"QLinearConv": 3}),
        (Concat, {"QLinearConv": 3, "QLinearConcat": 1}),
    ],
)
def test_convolutions_hand_on_whole_numbers(
    runtime: Any, tmp_path: Any, kind: Any, kinds: dict[str, int]
) -> None:
    network, example = folded(kind)
    samples = torch.randn(64, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    made = quantised(network, samples, every(network, INT8))
    runner = runtime.build(made, example, samples)
    outputs, expected = runner.logits(samples), made(samples)
    assert distance(outputs, expected) < 0.03
    assert distance(outputs, expected) > 0
    found = operations(runner.artifact, tmp_path)
    assert {name: found[name] for name in kinds} == kinds
    assert "Conv" not in found


def test_layers_between_keep_their_floats(runtime: Any, tmp_path: Any) -> None:
    """ONNX Runtime would round the kernel of a layer that stands between whole numbers."""
    network, example = folded(partial(CifarResNet, 8))
    samples = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    bits = every(network, INT8)
    for name in ("layer1.0.conv2", "layer2.0.conv1", "layer3.0.conv1"):
        bits[name] = LayerDecision(32, 8 if "2.0" in name else 32)
    made = quantised(network, samples, bits)
    runner = runtime.build(made, example, samples)
    found = operations(runner.artifact, tmp_path)
    assert found["QLinearConv"] == 4
    assert found["Conv"] + found["FusedConv"] == 3
    assert distance(runner.logits(samples), made(samples)) < 0.03


def test_a_file_holds_the_kernels_own_whole_numbers(runtime: Any) -> None:
    network, example = entry("lstm").build()
    bits = {"cells": LayerDecision(4, 32), "out": LayerDecision(6, 8)}
    made = quantised(network, example, bits)
    runner = runtime.build(made, example)
    torch.testing.assert_close(runner.outputs(), made(example), atol=1e-2, rtol=1e-2)
    stored = {
        each.name: numpy_helper.to_array(each)
        for each in onnx.load_from_string(runner.artifact).graph.initializer
    }
    rows = []
    for name, whole in stored.items():
        if whole.dtype == np.int8 and name.endswith("_whole"):
            steps = stored[name.replace("_whole", "_steps")]
            steps = steps if steps.ndim == whole.ndim else steps[:, None]
            rows += [*(whole * steps).reshape(-1, whole.shape[-1])]
    for layer in quantised_layers(made).values():
        for kernel in kernels_of(layer).values():
            for row in kernel.detach().numpy():
                own = [each for each in rows if each.shape == row.shape]
                assert min(np.abs(each - row).max() for each in own) < 1e-7
    assert not any(
        each.dtype == np.float32 and each.size > 1000 and name != "embed.weight"
        for name, each in stored.items()
    )
    assert b"autoprune" not in runner.artifact


def test_a_bias_that_does_not_fit_beside_its_steps(runtime: Any) -> None:
    network, samples = mlp()
    with torch.no_grad():
        network[0].weight[3] = 0.0  # type: ignore[index]
        network[0].weight[4] *= 1e-9  # type: ignore[index]
        network[0].bias[3:5] = torch.tensor([0.7, -90.0])  # type: ignore[index]
    made = quantised(network, samples, every(network, INT8))
    runner = runtime.build(made, samples[:16])
    assert same_numbers(runner.logits(samples), made(samples))


@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_any_number_of_samples_runs_in_batches_of_the_example(name: str, count: int) -> None:
    network, samples = nn.Linear(5, 3).eval(), torch.randn(count, 5)
    with create(name).build(network, torch.randn(4, 5)) as runner:
        before = runner.outputs()
        torch.testing.assert_close(runner.logits(samples), network(samples))
        torch.testing.assert_close(runner.outputs(), before)


def test_batches_are_filled_up() -> None:
    found = list(batches_of(torch.arange(5.0)[:, None], 3))
    assert [count for _, count in found] == [3, 2]
    assert found[1][0].flatten().tolist() == [3.0, 4.0, 3.0]


def test_other_widths_and_bits_are_not_converted_in_full(conversions: list[nn.Module]) -> None:
    runtime = create("onnx")
    for width, bits in ((12, 8), (9, 4), (5, 32)):
        network = nn.Sequential(nn.Linear(7, width), nn.ReLU(), nn.Linear(width, 3))
        samples = torch.randn(32, 7)
        made = quantised(network, samples, every(network, LayerDecision(bits, bits)))
        runner = runtime.build(made, samples)
        assert same_numbers(runner.outputs(), made(samples))
    assert len(conversions) == 1


@pytest.mark.parametrize("name", ["torch", "torch_compile"])
def test_pytorch_runs_floats_and_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    network, samples = mlp()
    made = quantised(network, samples, every(network, LayerDecision(4, 2)))
    runtime = create(name)
    plain = copy.deepcopy(network)
    plain.load_state_dict(made.state_dict(), strict=False)
    with runtime.build(made, samples) as runner:
        torch.testing.assert_close(runner.outputs(), plain.eval()(samples))
    assert runtime.remarks(made) == [
        "PyTorch runs quantised layers in float32; whole numbers: backend: onnx or openvino"
    ]
    assert runtime.remarks(network) == []


def test_what_runs_otherwise_is_said_in_words() -> None:
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)), nn.LSTM(2, 2))
    bits = dict.fromkeys(["0", "1", "2", "3"], LayerDecision(4, 8)) | {"4": LayerDecision(8, 32)}
    attach(network, bits)
    four = "0, 1, 2 and 1 more: 4-bit kernels run as 8-bit whole numbers"
    stored = "4: 8-bit kernels are stored in 8 bits and multiplied as floats"
    assert create("onnx").remarks(network) == [four, stored]
    floats = "0, 1, 2 and 2 more: OpenVINO runs all layers of a recurrent network in float32"
    assert create("openvino").remarks(network) == [four, stored, floats]
    assert create("torchao").remarks(network) == [
        four,
        "0, 1, 2 and 1 more: 8-bit inputs are rounded to 8 bits of each row's own range",
        "4: torchao has no whole numbers for LSTM: it runs in float32",
    ]
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    attach(other, {"0": LayerDecision(8, 4), "1": LayerDecision(32, 8), "2": LayerDecision(16, 16)})
    assert create("onnx").remarks(other) == [
        "0: 4-bit inputs run as 8-bit whole numbers",
        "1: 8-bit inputs are multiplied as floats",
        "2: 16 bits run as float32 rounded to half precision",
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["onnx", "torchao"])
def test_a_vision_transformer_agrees(name: str) -> None:
    network, _ = entry("vit").build()
    samples = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    made = quantised(network, samples, every(network, INT8))
    runtime = create(name)
    runtime.check("cpu")
    with runtime.build(made, samples[:8], samples) as runner:
        outputs = runner.logits(samples)
    with torch.no_grad():
        expected = made(samples)
    assert distance(outputs, expected) < 0.05
    assert (outputs.argmax(1) == expected.argmax(1)).float().mean() >= 0.9
    assert runner.artifact is not None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("bits", "bound"), [(LayerDecision(4, 32), 1e-5), (INT8, 0.03)])
def test_torchao_holds_the_kernels_own_whole_numbers(bits: LayerDecision, bound: float) -> None:
    network, samples = mlp()
    made = quantised(network, samples, every(network, bits))
    with create("torchao").build(made, samples) as runner:
        assert distance(runner.outputs(), made(samples)) < bound
    assert not any(isinstance(x, nn.Linear) and type(x.weight) is not nn.Parameter for x in made)


def test_torchao_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(InputError, match=r"needs torchao; pip install 'autoprune\[quant\]'"):
        create("torchao").check("cpu")
    with pytest.raises(InputError, match="backend torchao runs on the CPU"):
        create("torchao").check("cuda")


def test_openvino_runs_whole_numbers() -> None:
    network, example = folded(Residual)
    made = quantised(network, example, every(network, LayerDecision(7, 8)))
    runner: Any = create("openvino").build(made, example)
    assert distance(runner.outputs(), made(example)) < 0.03
    read = runner.compiled.get_runtime_model()
    kinds = Counter(
        str(each.rt_info["runtimePrecision"].astype(str))
        for each in read.get_ops()
        if each.rt_info["layerType"].astype(str) == "Convolution"
    )
    assert kinds == {"u8": 3}


@pytest.mark.parametrize("cuts_off", [True, False])
def test_products_that_saturate_are_said(cuts_off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.runtimes.openvino_runtime.saturates", lambda: cuts_off)
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    attach(network, {"0": INT8, "1": LayerDecision(7, 8), "2": LayerDecision(8, 32)})
    said = [each for each in create("openvino").remarks(network) if "saturate" in each]
    assert [each.partition(":")[0] for each in said] == ["0"] * cuts_off
    assert not any("saturate" in each for each in create("onnx").remarks(network))


def test_a_network_that_cannot_be_converted_is_refused() -> None:
    depends = Network(lambda net, x: net.a(x) if x.sum() > 0 else x, a=nn.Linear(3, 3))
    with pytest.raises(ExportError, match="PyTorch cannot convert the network to ONNX"):
        create("onnx").build(depends, torch.randn(2, 3))


def test_kernels_that_changed_on_the_way_are_refused() -> None:
    network, example = built(Residual)
    made = quantised(network, example, every(network, INT8))
    with pytest.raises(ExportError, match=r"one: its kernel changed .* batch norms must be folded"):
        create("onnx").build(made, example)


def test_kernels_that_were_not_rounded_are_refused(runtime: Any) -> None:
    network, samples = mlp()
    made = quantised(network, samples, every(network, INT8))
    with torch.no_grad():
        made[0].weight[2, 3] += 0.4 * made[0].weight_step[2]  # type: ignore[index, operator]
    with pytest.raises(ExportError, match=r"0\.weight differs from multiples .* by up to 0\.4"):
        runtime.build(made, samples)
