"""Bit operations and memory: the contract, and values computed by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.contracts.objective import Objective, Subject
from autoprune.graph.cost import Costs
from autoprune.objectives.bitops import Bitops
from autoprune.objectives.memory import Memory
from autoprune.policy import LayerDecision
from autoprune.quantization.form import attach
from autoprune.testing import ObjectiveContract

SMALL = Costs(100, params=10, size_bytes=40, activation_bytes=80, bitops=100 * 32 * 32)
LARGE = Costs(1000, params=100, size_bytes=400, activation_bytes=800, bitops=1000 * 32 * 32)


class TestBitops(ObjectiveContract):
    def make(self) -> Objective:
        return Bitops()

    def better(self) -> Subject:
        return Subject(SMALL)

    def worse(self) -> Subject:
        return Subject(LARGE)


def convolutions(width: int, costs: Costs) -> Subject:
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3)]
    return Subject(costs, network=nn.Sequential(*layers).eval(), example=torch.randn(2, 3, 16, 16))


class TestMemory(ObjectiveContract):
    def make(self) -> Objective:
        return Memory(batch=4)

    def better(self) -> Subject:
        return convolutions(4, SMALL)

    def worse(self) -> Subject:
        return convolutions(32, LARGE)


def test_bit_operations_are_those_of_the_table() -> None:
    assert Bitops().measure(Subject(SMALL)).value == 100 * 32 * 32


# An input of 4 x 8 x 8 floats is 1,024 bytes.


def memory(network: nn.Module, batch: int = 1) -> tuple[int, int]:
    """Return the bytes of weights and of activations."""
    example = torch.randn(2, 4, 8, 8)
    subject = Subject(SMALL, network=network.eval(), example=example)
    measured = Memory(batch=batch).measure(subject)
    weights, activations = (measured.parts[x].value for x in ("weights", "activations"))
    assert measured.value == weights + activations
    return int(weights), int(activations)


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def test_a_chain_needs_its_input_and_two_neighbours() -> None:
    # 32 + 16 weights of 4 bytes. The input, and 8 channels before and after the ReLU.
    network = nn.Sequential(conv(4, 8), nn.ReLU(), conv(8, 2))
    assert memory(network) == (192, 1024 + 2048 + 2048)
    assert memory(network, batch=3) == (192, 3 * 5120)


def test_an_operation_in_place_needs_nothing() -> None:
    network = nn.Sequential(conv(4, 8), nn.ReLU(inplace=True), conv(8, 2))
    assert memory(network) == (192, 1024 + 2048 + 512)


def test_what_is_let_go_of_does_not_count() -> None:
    long = nn.Sequential(*(conv(4, 4) for _ in range(9)))
    assert memory(long) == (9 * 64, 1024 + 1024 + 1024)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(4, 16), conv(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x + 1.0
        return shortcut + self.two(self.one(shortcut))


def test_a_shortcut_is_alive_beside_its_branch() -> None:
    # While `two` runs: the input, the shortcut, 16 channels, and 4.
    assert memory(Residual())[1] == 1024 + 1024 + 4096 + 1024


def test_views_share_what_they_show() -> None:
    class Viewed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            halves = flat.chunk(2, dim=1)
            return halves[0].view(-1, 16).t()

    assert memory(Viewed()) == (0, 1024)


class Held(nn.Module):
    """A weight under two names, a buffer, a view of a weight, and a tensor that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8, bias=False)
        self.two = nn.Linear(8, 8, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("mean", torch.zeros(8))
        self.constant = torch.ones(8)

    def forward(self, x: Tensor) -> Tensor:
        x -= self.mean
        x *= self.one.weight[0]
        x += self.constant
        return x


def test_weights_and_buffers_count_once_and_other_tensors_as_activations() -> None:
    assert memory(Held()) == (256 + 32, 1024 + 32)


def test_memory_of_rounded_floats_says_that_it_is() -> None:
    network = nn.Sequential(nn.Linear(4, 4))
    attach(network, {"0": LayerDecision(8, 8)})
    assert (
        "float32"
        in Memory().measure(Subject(SMALL, network=network, example=torch.ones(1, 4))).note
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=8), st.integers(1, 5))
def test_the_peak_of_linear_layers_in_a_row(widths: list[int], batch: int) -> None:
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    subject = Subject(SMALL, network=nn.Sequential(*layers), example=torch.randn(2, widths[0]))
    measured = Memory(batch=batch).measure(subject)
    # The input is alive throughout, besides it what a layer reads and what it makes.
    pairs = zip([0, *widths[1:-1]], widths[1:], strict=True)
    floats = widths[0] + max(read + made for read, made in pairs)
    assert measured.parts["activations"].value == 4 * batch * floats
    assert measured.parts["weights"].value == sum(
        4 * x.numel() for y in layers for x in y.parameters()
    )


def test_batch_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="batch must be at least 1"):
        Memory(batch=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_on_cuda_is_at_least_that_of_the_tensors() -> None:
    subject = convolutions(64, SMALL)
    assert subject.network is not None
    assert subject.example is not None
    counted = [Memory(batch=batch).measure(subject) for batch in (64, 128)]
    on_gpu = replace(subject, network=subject.network.cuda(), example=subject.example.cuda())
    allocated = [Memory(batch=batch).measure(on_gpu) for batch in (64, 128)]
    assert allocated[0].parts["weights"] == counted[0].parts["weights"]
    assert all(x.value >= y.value for x, y in zip(allocated, counted, strict=True))
    assert allocated[0].value < allocated[1].value
