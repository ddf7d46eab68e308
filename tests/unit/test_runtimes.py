"""Runtimes: the outputs of PyTorch, refusals in words, conversion, and layers alone."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.errors import ExportError, InputError
from autoprune.evaluation.inference import channels_last
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.runtimes.catalog import RUNTIMES, create
from autoprune.runtimes.layers import layer_kinds
from autoprune.runtimes.multiple import preferred_multiple, widths
from autoprune.runtimes.runtime import Runner, Runtime
from tests.carving import Network, planned, policies
from tests.clock import Clock, Timed
from tests.networks import Depthwise, Residual, built
from tests.zoo.base import enliven

needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def outputs_of(network: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network).eval()(example)


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_are_those_of_the_network_in_evaluation_mode(
    name: str, layout: torch.memory_format
) -> None:
    network, example = built(Residual)
    network = network.train().to(memory_format=layout)  # type: ignore[call-overload]
    network.norm.eval()  # type: ignore[union-attr]
    modes = [each.training for each in network.modules()]
    runtime = create(name)
    runtime.check("cpu")
    with runtime.build(network, example) as runner:
        runner.run()
        outputs = runner.outputs()
    torch.testing.assert_close(outputs, outputs_of(network, example), atol=1e-5, rtol=1e-4)
    assert [each.training for each in network.modules()] == modes


def test_compiled_outputs_are_those_of_the_network() -> None:
    network, example = nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.ReLU()), torch.randn(2, 6)
    runtime = create("torch_compile")
    runtime.check("cpu")
    with runtime.build(network, example) as runner:
        torch.testing.assert_close(runner.outputs(), outputs_of(network, example))
    assert network.training


def test_every_network_of_a_class_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    # Quick, and all of what decides whether a network is compiled once more.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    runtime, before = create("torch_compile"), counters["stats"]["unique_graphs"]
    for width in range(1, 13):
        network = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
        with runtime.build(network, torch.randn(1, 3)) as runner:
            runner.run()
    assert counters["stats"]["unique_graphs"] - before == 12


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=needs_cuda) for x in ("torch", "torch_compile", "cuda_graph")]
)
def test_outputs_on_a_gpu(name: str) -> None:
    network, example = built(Residual)
    runtime = create(name)
    runtime.check("cuda")
    with runtime.build(copy.deepcopy(network).cuda(), example.cuda()) as runner:
        runner.run()
        outputs = runner.outputs()
    torch.testing.assert_close(outputs, outputs_of(network, example), atol=1e-2, rtol=1e-2)


def test_threads_are_those_that_were_asked_for_and_then_as_before() -> None:
    seen: list[int] = []

    def watched(_: nn.Module, x: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return x

    example = torch.zeros(1, 1)
    outer = create("torch", threads=2).build(Network(watched), example)
    inner = create("torch", threads=1).build(Network(watched), example)
    assert torch.get_num_threads() == 1
    with outer:
        outer.run()
        with inner:
            inner.run()
        outer.run()
    assert seen == [2, 1, 2]
    assert torch.get_num_threads() == 1


def test_what_cannot_run_is_refused_with_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'openvino'"):
        create("openvno")
    for name in ("onnx", "openvino"):
        with pytest.raises(InputError, match="device: cpu, or on a GPU backend: torch"):
            create(name).check("cuda")
    with pytest.raises(InputError, match="device: cuda, or backend: torch"):
        create("cuda_graph").check("cpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime; pip install 'autoprune\[onnx\]'"):
        create("onnx").check("cpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        InputError, match=r"needs openvino, onnxruntime; pip install 'autoprune\[openvino\]'"
    ):
        create("openvino").check("cpu")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"'g\+\+' is not installed"):
        create("torch_compile").check("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["torch", "torch_compile", "cuda_graph"])
def test_a_gpu_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no CUDA device here; use device: cpu"):
        create(name).check("cuda")


def test_the_table_of_names_needs_no_torch() -> None:
    code = "import sys, autoprune.runtimes.catalog; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {name for name in RUNTIMES if isinstance(create(name), Runtime)} == set(RUNTIMES)


def small_resnet() -> tuple[nn.Module, Tensor]:
    network = CifarResNet(8)
    enliven(network, seed=1)
    return channels_last(network.eval().requires_grad_(False)), torch.randn(1, 3, 12, 12)


# Padded shortcuts and a flatten; groups of a convolution.
@pytest.mark.parametrize("make", [small_resnet, functools.partial(built, Depthwise)])
def test_carved_versions_are_not_converted_in_full(
    make: Callable[[], tuple[nn.Module, Tensor]], conversions: list[nn.Module]
) -> None:
    network, example = make()
    plan, _ = planned(network, torch.cat([example, example])[:2])
    runtime = create("onnx")
    runtime.build(network, example)
    for policy in policies(plan.groups, 4):
        carved = plan.carve(policy)
        with runtime.build(carved, example) as runner:
            torch.testing.assert_close(
                runner.outputs(), outputs_of(carved, example), atol=1e-4, rtol=1e-3
            )
    assert conversions == [network]


# One does not run on the wider network's graph, the other one runs and says something else.
@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: net.a(x).reshape(1, 2, net.a.out_features // 2).sum(1),
        lambda net, x: net.a(x) * net.a.out_features,
    ],
)
def test_another_structure_is_converted_in_full(
    run: Callable[..., Tensor], conversions: list[nn.Module]
) -> None:
    runtime, example = create("onnx"), torch.randn(1, 6)
    wide, narrow = (Network(run, a=nn.Linear(6, width)).eval() for width in (8, 4))
    other, again = nn.Linear(6, 4), nn.Linear(6, 3)
    for network in (wide, narrow, other, again):
        with runtime.build(network, example) as runner:
            torch.testing.assert_close(runner.outputs(), outputs_of(network, example))
    assert conversions == [wide, narrow, other]


def test_a_network_that_does_not_survive_conversion_is_refused() -> None:
    noisy = Network(lambda _, x: nn.functional.dropout(x, training=True))
    with pytest.raises(ExportError, match="use backend: torch"):
        create("onnx").build(noisy, torch.ones(1, 64))


def test_equal_layers_are_one_kind() -> None:
    network, example = CifarResNet(20), torch.randn(2, 3, 32, 32)
    kinds = layer_kinds(network, example)
    assert next(iter(kinds)) == "conv1"
    assert len(kinds) == 20
    assert len({each for calls in kinds.values() for each in calls}) == 7
    (first,) = kinds["layer2.0.conv1"]
    assert (first.inputs, first.outputs, first.sizes) == (16, 32, (2, 32, 32))
    assert first.macs == 2 * 16 * 32 * 9 * 16 * 16
    assert not network.conv1._forward_pre_hooks
    assert network.training


def test_layers_stand_alone_at_other_widths() -> None:
    network, example = built(Depthwise)
    kinds = layer_kinds(network, example)
    (depth,), (project,), (out,) = kinds["depth"], kinds["project"], kinds["out"]
    layer, inputs = depth.build(1, 5)
    assert isinstance(layer, nn.Conv2d)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (5, 5, 5)
    assert layer.bias is None
    assert layer(inputs).shape == (2, 5, 8, 8)
    assert project.build(3, 2)[0](project.build(3, 2)[1]).shape == (2, 2, 8, 8)
    linear, features = out.build(4, 2)
    assert linear(features).shape == (2, 2)


def test_a_layer_that_runs_twice_has_two_calls() -> None:
    network = Network(lambda net, x: net.a(net.a(x)), a=nn.Linear(4, 4))
    assert [len(each) for each in layer_kinds(network, torch.randn(3, 4)).values()] == [2]


@given(st.integers(8, 4096))
def test_widths_around_one_middle(full: int) -> None:
    table = widths(full)
    (middle,) = table[max(table)]
    assert list(table) == [2**power for power in range(len(table))]
    for multiple, pair in table.items():
        assert all(0 < each <= full and each % (2 * multiple) == multiple for each in pair)
        assert sum(pair) == len(pair) * middle


class Stairs(Runtime):
    """Time goes with the outputs, and with the inputs, rounded up to a step."""

    def __init__(self, clock: Clock, step: int) -> None:
        super().__init__()
        self.clock = clock
        self.step = step

    def check(self, device: str) -> None: ...

    def of_bits(self, network: nn.Module) -> list[str]:
        return []

    def build(self, network: nn.Module, example: Tensor, samples: Tensor | None = None) -> Runner:
        assert isinstance(network, nn.Linear)
        blocks = [-(-x // self.step) for x in (network.in_features, network.out_features)]
        return Timed(self.clock, lambda _, __: 1e-6 * self.step**2 * blocks[0] * blocks[1])


# Around 48 channels, steps of 4 cost 4 % where widths are odd; around 24, 8 %.
@pytest.mark.parametrize(
    ("width", "step", "multiple"), [(64, 1, 1), (64, 4, 1), (32, 4, 4), (64, 8, 8), (64, 16, 16)]
)
def test_the_multiple_that_a_runtime_likes(width: int, step: int, multiple: int) -> None:
    clock = Clock()
    layers = [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 3)]
    example = torch.randn(1, width)
    found = preferred_multiple(Stairs(clock, step), nn.Sequential(*layers), example, clock=clock)
    assert found.multiple == multiple
    assert found.relative[1] == 1.0
    assert list(found.relative) == [1, 2, 4, 8, 16][: 4 + (width > 32)]


def test_without_wide_layers_no_multiple_is_preferred() -> None:
    found = preferred_multiple(Stairs(Clock(), 8), nn.Linear(4, 4), torch.randn(1, 4))
    assert found.multiple == 1
