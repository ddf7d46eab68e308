"""Training as quantised: gradients by hand, nothing left behind, the same network when folded."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from autoprune.policy import LayerDecision
from autoprune.quantization.form import kernels_of
from autoprune.quantization.quantise import quantise
from autoprune.quantization.straight_through import rounded
from autoprune.quantization.training import folded_steps, quantisation_aware
from autoprune.surgery.folding import fold
from tests.networks import Chain, Depthwise, Residual, built
from tests.zoo.text import LENGTH, VOCABULARY, Recurrent

FOLDABLE = {Chain: [("a", "norm")], Residual: [("one", "norm")], Depthwise: [("depth", "norm")]}


def _decisions(network: nn.Module, decision: LayerDecision) -> dict[str, LayerDecision]:
    found = {name: each for name, each in network.named_modules() if kernels_of(each)}
    names = [name for name, each in found.items() if isinstance(each, nn.Conv2d | nn.Linear)]
    return dict.fromkeys(names, decision)


def _images(count: int = 32) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def _trained(network: nn.Module, inputs: Tensor, steps: int = 5) -> None:
    labels = torch.arange(len(inputs)) % 3
    network.requires_grad_(True).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    network.requires_grad_(False).eval()


def test_gradients_are_those_of_lsq_by_hand() -> None:
    values = torch.tensor([0.9, 2.6, -7.0, 40.0], requires_grad=True)
    step = torch.tensor(2.0, requires_grad=True)
    low, high = torch.tensor(-3.0), torch.tensor(3.0)
    found = rounded(values, step, low, high)
    assert found.tolist() == [0.0, 2.0, -6.0, 6.0]
    found.backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 10.0, 0.0, 0.0]
    # Within: round(v/Δ) - v/Δ. Beyond: the bound.
    expected = 1 * (0 - 0.45) + 10 * (1 - 1.3) + 100 * -3 + 1000 * 3
    assert float(step.grad) == pytest.approx(expected)  # type: ignore[arg-type]


def test_each_channel_has_the_gradient_of_its_own_step() -> None:
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([[0.3], [0.5], [2.0]], requires_grad=True)
    low, high = torch.tensor(-1.0), torch.tensor(1.0)
    rounded(values, step, low, high).square().sum().backward()
    for row in range(3):
        own = step[row].detach().clone().requires_grad_()
        rounded(values[row], own, low, high).square().sum().backward()
        torch.testing.assert_close(step.grad[row], own.grad)  # type: ignore[index]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", FOLDABLE)
def test_what_is_trained_is_what_is_deployed(kind: type[nn.Module], learned: bool) -> None:
    """The rounded, unfolded network in training's end and the quantised, folded one agree."""
    network, _ = built(kind)
    x = _images()
    decisions = _decisions(network, LayerDecision(4, 6))
    with quantisation_aware(network, decisions, [x], observer="min_max", learned=learned) as steps:
        _trained(network, x)
        expected = network(x)
        assert not steps
    assert not torch.equal(network(x), expected)
    folded = copy.deepcopy(fold(network, FOLDABLE[kind]))
    quantise(
        folded,
        decisions,
        [x],
        observer="percentile",
        weight_observer="mse",
        rounding="nearest",
        steps=folded_steps(steps, network, FOLDABLE[kind]),
    )
    # An input that falls on a tie may go the other way.
    close = (folded(x) - expected).abs().amax(1) < 1e-4 * expected.abs().max()
    assert close.float().mean() > 0.9


def test_steps_follow_the_fold_of_any_batch_norm() -> None:
    network, x = built(Chain)
    with torch.no_grad():
        network.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.3, -0.1, 5.0]))
    decisions = {"a": LayerDecision(3)}
    with quantisation_aware(network, decisions, [x], observer="min_max", learned=False) as steps:
        expected = network(x)
    folded = copy.deepcopy(fold(network, [("a", "norm")]))
    found = folded_steps(steps, network, [("a", "norm")])
    quantise(
        folded,
        decisions,
        [x],
        observer="min_max",
        weight_observer="min_max",
        rounding="nearest",
        steps=found,
    )
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(folded.a.weight_step, found["a.weight_step"])
    factor = (network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()).abs()
    alive = factor > 0
    torch.testing.assert_close(
        found["a.weight_step"][alive], (steps["a.weight_step"] * factor)[alive]
    )
    assert found["a.weight_step"][~alive].tolist() == [1.0]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", [Chain, Recurrent])
def test_nothing_is_left_behind(kind: type[nn.Module], learned: bool, fails: bool) -> None:
    if kind is Recurrent:
        network: nn.Module = Recurrent(nn.LSTM)
        x = torch.randint(1, VOCABULARY, (6, LENGTH))
        decisions = {"cells": LayerDecision(4), "out": LayerDecision(16, 16)}
    else:
        network, _ = built(kind)
        x = _images()
        decisions = _decisions(network, LayerDecision(4, 4)) | {"out": LayerDecision(2, 16)}
    plain = copy.deepcopy(network)
    parameters = dict(network.named_parameters())
    context = quantisation_aware(network, decisions, [x], observer="mse", learned=learned)
    if fails:
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
        assert all(torch.equal(a, b) for a, b in _states(network, plain))
    else:
        with context:
            _trained(network, x)
    assert list(network.state_dict()) == list(plain.state_dict())
    assert list(dict(network.named_parameters())) == list(parameters)
    for name, parameter in network.named_parameters():
        assert parameter is parameters[name]
    for one, other in zip(network.modules(), plain.modules(), strict=True):
        assert type(one) is type(other)
        assert not parametrize.is_parametrized(one)
        assert one.__dict__.keys() == other.__dict__.keys()
        assert not one._forward_pre_hooks
    again = copy.deepcopy(plain)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval()(x), again.eval()(x))


def _states(one: nn.Module, other: nn.Module) -> zip[tuple[Tensor, Tensor]]:
    return zip(one.state_dict().values(), other.state_dict().values(), strict=True)


def test_learned_steps_are_parameters_and_move() -> None:
    network, _ = built(Chain)
    x = _images()
    decisions = _decisions(network, LayerDecision(3, 4))
    with quantisation_aware(network, decisions, [x], observer="min_max", learned=True) as steps:
        names = [name for name, _ in network.named_parameters()]
        assert "b.input_step" in names
        assert "b.parametrizations.weight.0.step" in names
        before = {name: each.clone() for name, each in network.named_parameters()}
        _trained(network, x)
        after = dict(network.named_parameters())
        for name in ("b.input_step", "b.parametrizations.weight.0.step"):
            assert not torch.equal(before[name], after[name])
        last = after["b.parametrizations.weight.0.step"].detach().flatten().clone()
    assert torch.equal(steps["b.weight_step"], last)
    assert steps["b.weight_step"].shape == (4,)
    assert set(steps) == {
        f"{layer}.{each}"
        for layer in decisions
        for each in ("weight_step", "input_step", "input_zero")
    }


def test_the_gradient_of_a_learned_step_is_scaled() -> None:
    layer = nn.Sequential(nn.Linear(8, 1, bias=False))
    x = torch.rand(5, 8)
    weight = layer[0].weight.detach().clone()
    decision = LayerDecision(3)
    with quantisation_aware(layer, {"0": decision}, [x], observer="min_max", learned=True):
        layer(x).sum().backward()
        step: Any = layer.get_parameter("0.parametrizations.weight.0.step")
        start = 2 * weight.abs().mean() / math.sqrt(3)
        assert step.tolist() == [[pytest.approx(float(start))]]
        twin = step.detach().clone().requires_grad_()
        bare = rounded(weight, twin, torch.tensor(-3.0), torch.tensor(3.0))
        nn.functional.linear(x, bare).sum().backward()
        assert step.grad is not None
        assert twin.grad is not None
        torch.testing.assert_close(step.grad, twin.grad / math.sqrt(8 * 3))


@pytest.mark.parametrize("learned", [False, True])
def test_kernels_within_recurrent_layers_and_attention_train(learned: bool) -> None:
    """They are rounded as they run, as they are now, and what is beneath them learns."""
    for layer, call in (
        (nn.LSTM(6, 5, batch_first=True), lambda net, x: net(x)[0]),
        (nn.MultiheadAttention(6, 2, batch_first=True), lambda net, x: net(x, x, x)[0]),
    ):
        names = [name for name, each in layer.named_modules() if kernels_of(each)]
        decisions = dict.fromkeys(names, LayerDecision(3))
        x = torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(0))
        with quantisation_aware(layer, decisions, [], observer="min_max", learned=learned) as steps:
            layer.train()
            for _ in range(3):
                optimizer = torch.optim.SGD(layer.parameters(), 0.1)
                call(layer, x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            expected = call(layer, x)
        twin = copy.deepcopy(layer)
        quantise(
            twin,
            decisions,
            [],
            observer="min_max",
            weight_observer="mse",
            rounding="nearest",
            steps=steps,
        )
        torch.testing.assert_close(call(twin, x), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(call(layer, x), expected)


@pytest.mark.parametrize("learned", [False, True])
def test_mixed_precision_trains(learned: bool) -> None:
    network, _ = built(Chain)
    x = _images()
    decisions = _decisions(network, LayerDecision(4, 4))
    before = copy.deepcopy(network.state_dict())
    with (
        quantisation_aware(network, decisions, [x], observer="min_max", learned=learned),
        torch.autocast("cpu", torch.bfloat16),
    ):
        _trained(network, x)
    for name in ("a.weight", "b.weight", "hidden.weight"):
        assert not torch.equal(network.state_dict()[name], before[name])
        assert network.state_dict()[name].dtype is torch.float32


def test_ranges_are_those_of_a_network_in_training() -> None:
    """Statistics of batch norms that do not fit yet, as after pruning, tell nothing."""
    network, _ = built(Chain)
    network.norm.running_var.fill_(1e-6)
    x = _images()
    statistics = copy.deepcopy(network.norm.state_dict())
    seen: list[Tensor] = []
    with quantisation_aware(
        network, {"b": LayerDecision(8, 8)}, [x[:31], x[31:]], observer="min_max", learned=False
    ) as steps:
        assert all(torch.equal(one, network.norm.state_dict()[x]) for x, one in statistics.items())
        # What the convolution before gives, batch-normalised, is read by `b`.
        network.norm.register_forward_hook(lambda *args: seen.append(args[-1]))
        network.train()(x[:31])
    highest = float(steps["b.input_step"]) * 255
    assert highest == pytest.approx(float(seen[0].max()), rel=1e-2)
