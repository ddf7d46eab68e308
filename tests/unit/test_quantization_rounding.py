"""The form, rounding of kernels, what is done about its error, and all of it in order."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.errors import NonFiniteError
from autoprune.policy import LayerDecision, Rounding
from autoprune.quantization.adaptation import adapt_rounding, adapted
from autoprune.quantization.bias_correction import correct_biases
from autoprune.quantization.form import (
    attach,
    bounds,
    kernels_of,
    quantised_layers,
    rounded_input,
)
from autoprune.quantization.quantise import quantise
from autoprune.quantization.rounding import round_kernels, set_kernel_steps
from tests.networks import ALL, Chain, Depthwise, Residual, built
from tests.zoo.text import LENGTH, VOCABULARY, Recurrent

ROUNDINGS: tuple[Rounding, ...] = ("nearest", "bias_corrected", "adaptive")


def _quantised(
    network: nn.Module,
    batches: list[Tensor],
    decision: LayerDecision,
    rounding: Rounding = "nearest",
    **others: object,
) -> nn.Module:
    found = copy.deepcopy(network)
    names = [name for name, each in found.named_modules() if kernels_of(each)]
    names = [x for x in names if isinstance(found.get_submodule(x), nn.Conv2d | nn.Linear)]
    options = {"observer": "min_max", "weight_observer": "min_max"} | others
    quantise(found, dict.fromkeys(names, decision), batches, rounding=rounding, **options)  # type: ignore[arg-type]
    return found


def _images(count: int = 64) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def test_inputs_are_rounded_as_written_out() -> None:
    layer = nn.Linear(3, 1)
    attach(layer, {"": LayerDecision(32, 2)})
    layer.input_step.fill_(0.5)
    layer.input_zero.fill_(1.0)
    given = torch.tensor([[-3.0, -0.3, 0.2], [0.3, 0.8, 9.0]])
    expected = torch.tensor([[-0.5, -0.5, 0.0], [0.5, 1.0, 1.0]])
    assert torch.equal(rounded_input(layer, given), expected)
    # By keyword, and never in the caller's own tensor.
    plain = nn.functional.linear(expected, layer.weight, layer.bias)
    torch.testing.assert_close(layer(input=given), plain)
    assert float(given[0, 0]) == -3.0


@settings(max_examples=50, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    low=st.floats(-10, 0),
    high=st.floats(0.1, 10),
    seed=st.integers(0, 99),
)
def test_inputs_are_whole_numbers_of_steps(bits: int, low: float, high: float, seed: int) -> None:
    layer = nn.Linear(4, 1)
    attach(layer, {"": LayerDecision(8, bits)})
    step = (high - low) / (2**bits - 1)
    layer.input_step.fill_(step)
    layer.input_zero.fill_(round(-low / step))
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)) * 8
    whole = rounded_input(layer, values) / layer.input_step + layer.input_zero
    torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)
    assert 0 <= whole.round().min() <= whole.round().max() <= 2**bits - 1
    twin = torch.fake_quantize_per_tensor_affine(
        values, float(layer.input_step), int(layer.input_zero), 0, 2**bits - 1
    )
    # Ties may go either way.
    distance = (rounded_input(layer, values) - twin).abs()
    assert distance.max() <= step * 1.001
    assert (distance > step * 1e-3).float().mean() < 0.02


def test_gradients_pass_straight_through_inputs() -> None:
    layer = nn.Linear(2, 1, bias=False).requires_grad_(False)
    attach(layer, {"": LayerDecision(32, 8)})
    layer.input_step.fill_(0.1)
    given = torch.tensor([[0.33, 99.0]], requires_grad=True)
    layer(given).sum().backward()
    # What is clipped has no influence.
    torch.testing.assert_close(given.grad, layer.weight * torch.tensor([[1.0, 0.0]]))


def test_kernels_hold_whole_numbers_of_their_steps() -> None:
    network, _ = built(Chain)
    decisions = {"a": LayerDecision(3), "hidden": LayerDecision(16), "b": LayerDecision(32, 8)}
    plain = copy.deepcopy(network)
    attach(network, decisions)
    set_kernel_steps(network, observer="min_max", steps={})
    round_kernels(network)
    whole = network.a.weight / network.a.weight_step.view(-1, 1, 1, 1)
    torch.testing.assert_close(whole, whole.round())
    assert whole.abs().amax((1, 2, 3)).round().eq(3).all()
    distance = (network.a.weight - plain.a.weight).abs().amax((1, 2, 3))
    assert (distance <= network.a.weight_step / 2 + 1e-6).all()
    assert torch.equal(network.hidden.weight, plain.hidden.weight.half().float())
    assert torch.equal(network.b.weight, plain.b.weight)
    assert bounds(8) == (-127, 127)


def test_recurrent_kernels_are_rounded_row_by_row() -> None:
    network = Recurrent(nn.LSTM).eval().requires_grad_(False)
    tokens = torch.randint(1, VOCABULARY, (4, LENGTH))
    plain = copy.deepcopy(network)
    decision = LayerDecision(4)
    for rounding in ROUNDINGS:
        found = copy.deepcopy(network)
        quantise(
            found,
            {"cells": decision, "out": decision},
            [tokens],
            observer="min_max",
            weight_observer="min_max",
            rounding=rounding,
        )
        kernels = kernels_of(found.cells)
        assert len(kernels) == 4
        for name, kernel in kernels.items():
            steps = plain.get_submodule("cells").get_parameter(name).abs().amax(1) / 7
            torch.testing.assert_close(getattr(found.cells, f"{name}_step"), steps)
            whole = kernel / steps[:, None]
            torch.testing.assert_close(whole, whole.round(), atol=1e-4, rtol=0)
        assert not torch.equal(found(tokens), plain(tokens))


def test_what_is_not_finite_in_a_kernel_is_named() -> None:
    network, x = built(Chain)
    network.b.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="weight of layer 'b' holds NaN or infinity"):
        _quantised(network, [x], LayerDecision(8))
    network.b.weight[0, 0, 0, 0] = 0.0
    network.a.weight[0] = 1e38
    network.norm.running_var[0] = 1e-30
    with pytest.raises(NonFiniteError, match="reads or gives NaN or infinity"):
        _quantised(network, [x * 1e30], LayerDecision(8), "adaptive")


def test_bias_correction_restores_the_means_of_every_layer() -> None:
    network, _ = built(Residual)
    x = _images()
    rounded = _quantised(network, [x], LayerDecision(3, 4))
    corrected = _quantised(network, [x], LayerDecision(3, 4), "bias_corrected")
    for name in quantised_layers(network) or ("stem", "one", "two", "out"):
        means = [_outputs(each, name, x) for each in (network, rounded, corrected)]
        torch.testing.assert_close(means[2], means[0], atol=1e-4, rtol=1e-4)
        assert (means[1] - means[0]).abs().max() > 1e-3
        before, after = (each.get_submodule(name) for each in (rounded, corrected))
        assert torch.equal(before.weight, after.weight)


def _outputs(network: nn.Module, name: str, x: Tensor) -> Tensor:
    """Return the mean output of each channel of a layer."""
    seen: list[Tensor] = []
    hook = network.get_submodule(name).register_forward_hook(
        lambda layer, _, out: seen.append(out if out.dim() == 2 else out.movedim(1, -1))
    )
    network(x)
    hook.remove()
    return seen[0].flatten(0, -2).mean(0)


def test_bias_correction_in_batches_is_close_to_that_of_all_at_once() -> None:
    network, _ = built(Chain)
    x = _images(96)
    whole = _quantised(network, [x], LayerDecision(4), "bias_corrected")
    parts = _quantised(network, list(x.split(40)), LayerDecision(4), "bias_corrected")
    rounded = _quantised(network, [x], LayerDecision(4))
    for name in ("b", "hidden", "out"):
        ends = [each.get_submodule(name).bias for each in (whole, parts, rounded)]
        assert (ends[0] - ends[1]).abs().max() < 0.3 * (ends[0] - ends[2]).abs().max()
    # Layers without a bias stay without.
    assert parts.a.bias is None
    assert parts.state_dict().keys() == rounded.state_dict().keys()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("groups", [1, 3])
def test_adapted_kernels_solve_the_rest_anew_after_every_input(bits: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    mix = torch.randn(groups, 7, 7, generator=generator)
    reads = torch.randn(groups, 700, 7, generator=generator) @ mix
    kernel = torch.randn(groups, 5, 7, generator=generator)
    gives = reads @ kernel.mT + torch.randn(groups, 700, 5, generator=generator)
    steps = kernel.abs().amax(2) / bounds(bits)[1]
    found = adapted(kernel.clone(), steps, bits, reads, gives)
    for group in range(groups):
        twin = _sequentially(kernel[group], steps[group], bits, reads[group], gives[group])
        assert torch.equal((found[group] / steps[group][:, None]).round(), twin)


def _sequentially(kernel: Tensor, steps: Tensor, bits: int, reads: Tensor, gives: Tensor) -> Tensor:
    """Return whole numbers (m, d), each time from a system over the inputs that are left."""
    least, most = bounds(bits)
    x, y, start = reads.double(), gives.double(), kernel.double()
    gram = x.T @ x / len(x)
    gram += (1e-2 + x.shape[1] / len(x)) * gram.diagonal().mean() * torch.eye(x.shape[1])
    best = start + torch.linalg.solve(gram, x.T @ (y - x @ start.T) / len(x)).T
    whole = torch.zeros_like(best)
    current = best.clone()
    for j in range(x.shape[1]):
        whole[:, j] = (current[:, j] / steps).round().clamp(least, most)
        # Fixed: all up to j. The others minimise (w - best) gram (w - best)ᵀ.
        fixed, left = whole[:, : j + 1] * steps[:, None], slice(j + 1, None)
        away = fixed - best[:, : j + 1]
        moved = torch.linalg.solve(gram[left, left], gram[left, : j + 1] @ away.T)
        current[:, left] = best[:, left] - moved.T
    return whole


@pytest.mark.parametrize("kind", ALL)
def test_adaptive_rounding_errs_less_than_the_nearest(kind: type[nn.Module]) -> None:
    network, _ = built(kind)
    x, unseen = _images(320).split(256)
    plain = network(unseen)
    found = [
        _quantised(network, list(x.split(200)), LayerDecision(3), each)
        for each in ("nearest", "adaptive")
    ]
    nearest, adaptive = (float((each(unseen) - plain).norm()) for each in found)
    assert adaptive < 0.9 * nearest


def test_adaptive_rounding_makes_up_for_layers_before() -> None:
    network, _ = built(Chain)
    x = _images()
    spoiled = copy.deepcopy(network)
    attach(spoiled, {"hidden": LayerDecision(8)})
    set_kernel_steps(spoiled, observer="min_max", steps={})
    spoiled.b.bias += 1.0
    adapt_rounding(spoiled, network, [x])
    torch.testing.assert_close(
        _outputs(spoiled, "hidden", x), _outputs(network, "hidden", x), atol=1e-3, rtol=1e-3
    )


def test_kernels_without_a_bias_are_solved_with_the_means() -> None:
    network = nn.Sequential(nn.Linear(20, 4, bias=False)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    network[0].weight.normal_(generator=generator)
    x = torch.randn(900, 20, generator=generator) + 2
    found = [_quantised(network, [x], LayerDecision(3), each)(x) for each in ROUNDINGS]
    nearest, corrected, adaptive = ((each - network(x)).mean(0).norm() for each in found)
    # What cannot be corrected can be rounded so that the means stay.
    assert torch.equal(nearest, corrected)
    assert adaptive < 0.4 * nearest


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_transformers_are_rounded_whole(rounding: Rounding) -> None:
    """Also where evaluation takes a way of its own through attention and linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.TransformerEncoder(layer, 1).eval().requires_grad_(False)
    x = torch.randn(30, 5, 8, generator=torch.Generator().manual_seed(1))
    decisions = {
        "layers.0.self_attn": LayerDecision(4),
        "layers.0.self_attn.out_proj": LayerDecision(4),
        "layers.0.linear1": LayerDecision(4, 3),
        "layers.0.linear2": LayerDecision(4, 3),
    }
    found = copy.deepcopy(network)
    options = {"observer": "min_max", "weight_observer": "min_max", "rounding": rounding}
    quantise(found, decisions, [x], **options)  # type: ignore[arg-type]
    for layer_ in quantised_layers(found).values():
        for name, kernel in kernels_of(layer_).items():
            whole = kernel / getattr(layer_, f"{name}_step")[:, None]
            torch.testing.assert_close(whole, whole.round(), atol=1e-4, rtol=0)
    with torch.inference_mode():
        first = found(x)
        for name in ("linear1", "linear2"):
            found.get_submodule(f"layers.0.{name}").input_step.mul_(2.0)
        assert not torch.allclose(found(x), first, atol=1e-3)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", [Chain, Depthwise])
def test_steps_that_are_known_are_kept(kind: type[nn.Module], rounding: Rounding) -> None:
    network, x = built(kind)
    first = _quantised(network, [x], LayerDecision(4, 4))
    steps = {name: each * 1.5 for name, each in first.named_buffers() if name.endswith("_step")}
    steps |= {name: each for name, each in first.named_buffers() if name.endswith("_zero")}
    second = _quantised(network, [x], LayerDecision(4, 4), rounding, steps=steps)
    for name, step in steps.items():
        assert torch.equal(second.get_buffer(name), step)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_saved_state_is_the_whole_network(rounding: Rounding) -> None:
    network, x = built(Chain)
    quantised = _quantised(network, [x], LayerDecision(4, 8), rounding, observer="mse")
    again = copy.deepcopy(network)
    attach(again, dict.fromkeys(("a", "b", "hidden", "out"), LayerDecision(4, 8)))
    again.load_state_dict(quantised.state_dict())
    assert torch.equal(again(x), quantised(x))
    for module in (*quantised.modules(), *again.modules()):
        assert not module._forward_hooks
        assert len(module._forward_pre_hooks) <= 1


def test_correction_ends_its_hooks_where_it_raises() -> None:
    network, x = built(Chain)
    reference = copy.deepcopy(network)
    attach(network, {"b": LayerDecision(8)})
    for repair in (correct_biases, adapt_rounding):
        with pytest.raises(RuntimeError):
            repair(network, reference, [x[:, :2]])
    assert not any(each._forward_hooks for each in (*network.modules(), *reference.modules()))
    assert not any(each._forward_pre_hooks for each in network.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_narrower_number_format_gives_much_the_same(dtype: torch.dtype) -> None:
    network, _ = built(Chain)
    x = _images()
    quantised = _quantised(network, [x], LayerDecision(8, 8))
    expected = quantised(x)
    found = copy.deepcopy(quantised).to(dtype)(x.to(dtype)).float()
    assert (found - expected).norm() < 0.05 * expected.norm()
