"""The runtime that skips zeros computes what eager PyTorch does; times are made up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.policy import LayerDecision
from autoprune.runtimes.catalog import create
from autoprune.runtimes.sparse_product import forms
from autoprune.runtimes.torch_sparse import TorchSparse
from tests.networks import Residual, built
from tests.quantised import every, quantised
from tests.skipping import (
    EVERY,
    FIFTH,
    HALF,
    TILES,
    TWO_FOUR,
    Times,
    close,
    digits,
    encoder,
    layouts,
    mlp,
    recurrent,
    sparse,
    vit,
)


def strides(tensor: Tensor) -> list[int]:
    """Return the strides that mean anything."""
    return [x for x, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


NETWORKS = {"mlp": 2, "digits": None, "vit": None, "encoder": 3, "recurrent": 2}


@pytest.mark.parametrize("decision", EVERY, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_eager_pytorch(name: str, decision: LayerDecision) -> None:
    network, example = globals()[name]()
    made = sparse(network, decision)
    expected = create("torch").build(made, example)
    runner = TorchSparse(compare=Times(0.5)).build(made, example)
    kernels = layouts(runner)
    assert kernels
    assert len(kernels) == NETWORKS[name] or NETWORKS[name] is None
    with expected, runner:
        assert close(runner.outputs(), expected.outputs())
        assert close(runner.logits(example[:1]), expected.logits(example[:1]))


@pytest.mark.parametrize("shape", [(96,), (1, 96), (5, 96), (1, 1, 96), (2, 3, 96)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("decision", [FIFTH, TILES], ids=["rows", "blocks"])
def test_linear_layers_are_products(
    decision: LayerDecision, bias: bool, shape: tuple[int, ...]
) -> None:
    layer = sparse(nn.Linear(96, 64, bias=bias), decision)
    made = list(forms(layer, in_half=False))
    assert len(made) == 1 + (decision is TILES)
    for inputs in (torch.randn(shape), torch.randn(shape[::-1]).movedim(0, -1)):
        for form in made:
            outputs = form(inputs)
            assert close(outputs, layer(inputs))
            assert outputs.shape == (*inputs.shape[:-1], 64)
            assert outputs.is_contiguous()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2, "bias": False},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)},
        {"kernel_size": 7},
    ],
    ids=str,
)
def test_convolutions_are_products(
    options: dict[str, Any], batch: int, layout: torch.memory_format
) -> None:
    layer = sparse(nn.Conv2d(72, 64, **options), FIFTH).to(memory_format=layout)  # type: ignore[call-overload]
    inputs = torch.randn(batch, 72, 7, 9).contiguous(memory_format=layout)
    expected = layer(inputs)
    (form,) = forms(layer, in_half=False)
    found = form(inputs)
    assert close(found, expected)
    assert strides(found) == strides(expected)
    assert close(form(inputs[0]), layer(inputs[0]))


@pytest.mark.parametrize(("size", "layout"), [(8, torch.sparse_bsr), (4, torch.sparse_bsr)])
def test_blocks_are_stored_as_blocks_as_well(size: int, layout: torch.layout) -> None:
    decision = LayerDecision(keep_ratio=0.3, pattern=f"{size}x{size}")
    network = nn.Sequential(sparse(nn.Linear(96, 64), decision))
    rows, blocks = Times(0.5, 0.6), Times(0.6, 0.5)
    for times, chosen in ((rows, torch.sparse_csr), (blocks, layout)):
        runner = TorchSparse(compare=times).build(network, torch.randn(3, 96))
        assert layouts(runner) == [chosen]
        assert runner.notes == ("0: without zeros 2.0 times as fast",)


def test_what_never_wins_is_not_tried() -> None:
    never = [
        sparse(nn.Linear(64, 64), FIFTH),
        sparse(nn.Linear(64, 65), LayerDecision(keep_ratio=0.65)),
        sparse(nn.Conv2d(128, 128, 3, groups=2), FIFTH),
        sparse(nn.Conv2d(64, 128, 1, padding=1, padding_mode="circular"), FIFTH),
        sparse(nn.Conv2d(64, 128, 3, padding="same"), FIFTH),
        sparse(nn.Conv1d(64, 128, 1), FIFTH),
        sparse(nn.Linear(64, 128), FIFTH).double(),
    ]
    assert [list(forms(each, in_half=False)) for each in never] == [[]] * len(never)
    assert len(list(forms(sparse(nn.Linear(64, 65), HALF), in_half=False))) == 1


@pytest.mark.parametrize("make", [mlp, digits, vit, encoder, recurrent, partial(built, Residual)])
def test_a_dense_network_is_run_as_in_eager_pytorch(
    make: Callable[[], tuple[nn.Module, Tensor]],
) -> None:
    network, example = make()
    times = Times(0.1)
    runner, eager = TorchSparse(compare=times).build(network, example), create("torch")
    with runner, eager.build(network, example) as expected:
        assert torch.equal(runner.outputs(), expected.outputs())
    assert times.asked == 0
    assert runner.notes == ()


def test_the_network_is_left_as_it_was() -> None:
    network, example = encoder()
    made = sparse(network, FIFTH).train()
    before = {name: each.clone() for name, each in made.state_dict().items()}
    with TorchSparse(threads=2, compare=Times(0.5)).build(made, example) as runner:
        runner.run()
    assert all(torch.equal(each, before[name]) for name, each in made.state_dict().items())
    assert all(each.training and not each._forward_hooks for each in made.modules())
    assert all(not each._forward_pre_hooks for each in made.modules())
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("bits", [LayerDecision(8, 8, None, 0.2), LayerDecision(16, 16, None, 0.2)])
def test_quantised_layers_run_in_float32(bits: LayerDecision) -> None:
    network, example = mlp()
    made = quantised(sparse(network, FIFTH), example, every(network, bits))
    runner = TorchSparse(compare=Times(0.5)).build(made, example)
    assert len(layouts(runner)) == 2
    with runner, create("torch").build(made, example) as expected:
        assert close(runner.outputs(), expected.outputs())
    said = create("torch_sparse").remarks(made)
    assert said[0] == create("torch").remarks(made)[0]


def test_zeros_of_rounding_are_multiplied_with() -> None:
    network, example = mlp()
    made = quantised(network, example, every(network, LayerDecision(2, 8)))
    assert float((made.get_submodule("0").weight == 0).float().mean()) > 0.4  # type: ignore[union-attr]
    times = Times(0.5)
    assert not layouts(TorchSparse(compare=times).build(made, example))
    assert times.asked == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bias", [True, False])
def test_two_four_kernels_of_16_bits_run_on_tensor_cores(bias: bool) -> None:
    layers = nn.Linear(256, 128, bias=bias), nn.ReLU(), nn.Linear(128, 64), nn.Linear(64, 10)
    network, example = sparse(nn.Sequential(*layers), TWO_FOUR), torch.randn(5, 256)
    half = LayerDecision(16, 16, None, 0.5, "2:4")
    made = quantised(network, example, every(network, half)).cuda()
    runtime = TorchSparse(compare=Times(0.5))
    runtime.check("cuda")
    with runtime.build(made, example.cuda()) as runner:
        runner.run()
        outputs = runner.outputs()
    torch.testing.assert_close(outputs, network(example), atol=2e-2, rtol=2e-2)
    # PyTorch has no kernels for ten outputs, and says so.
    assert runner.notes[-1] == "0, 2: without zeros 2.0 times as fast"
    assert runner.notes[0].startswith("3: no kernels here skip its zeros (")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_floats_on_a_gpu_are_multiplied_with_as_zeros() -> None:
    network, example = sparse(nn.Sequential(nn.Linear(256, 128)), TWO_FOUR), torch.randn(5, 256)
    times = Times(0.5)
    runtime, network = TorchSparse(compare=times), network.cuda()
    with runtime.build(network, example.cuda()) as runner, torch.no_grad():
        assert torch.equal(runner.outputs(), network(example.cuda()).cpu())
    assert times.asked == 0
    assert "on a GPU only linear layers of 16 bits" in runtime.remarks(network)[0]
