"""Observers and calibration: ranges by hand and against all values at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.errors import InputError, NonFiniteError
from autoprune.policy import LayerDecision
from autoprune.quantization.calibration import calibrate
from autoprune.quantization.form import attach
from autoprune.quantization.kernel_steps import kernel_steps, nearest
from autoprune.quantization.observers import OBSERVERS, MeanSquare, Percentile, affine
from tests.networks import ALL, Chain, built


def _seen(name: str, *batches: Tensor, bits: int = 8) -> tuple[float, float]:
    observer = OBSERVERS[name]()  # type: ignore[index]
    for batch in batches:
        observer.observe(batch)
    return observer.range(bits)


def test_min_max_is_all_that_was_seen_and_zero() -> None:
    assert _seen("min_max", torch.tensor([1.0, 3.0]), torch.tensor([2.0])) == (0.0, 3.0)
    assert _seen("min_max", torch.tensor([-1.0]), torch.tensor([-4.0])) == (-4.0, 0.0)


def test_moving_average_by_hand() -> None:
    low, high = _seen("moving_average", torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 4.0]))
    assert low == pytest.approx(0.9 * -1.0)
    assert high == pytest.approx(0.9 * 2.0 + 0.1 * 4.0)


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_but_zeros_has_a_step_of_one(name: str) -> None:
    low, high = _seen(name, torch.zeros(7), torch.zeros(2, 3))
    step, zero = affine(torch.tensor(low), torch.tensor(high), 8)
    assert (low, high) == (0.0, 0.0)
    assert (float(step), float(zero)) == (1.0, 0.0)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [3.0, -0.25])
def test_a_constant_is_within_its_range(name: str, value: float) -> None:
    low, high = _seen(name, torch.full((5,), value), bits=4)
    assert low <= value + 1e-6
    assert high >= value - 1e-6
    assert low <= 0.0 <= high


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    with pytest.raises(NonFiniteError):
        _seen(name, torch.tensor([1.0, value]))


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=4),
    shift=st.floats(-2.0, 2.0),
    percent=st.sampled_from([90.0, 99.0, 99.9]),
)
def test_percentiles_are_those_of_all_values(
    widths: list[float], shift: float, percent: float
) -> None:
    generator = torch.Generator().manual_seed(len(widths))
    batches = [(torch.randn(3000, generator=generator) + shift) * width for width in widths]
    observer = Percentile(percent)
    for each in batches:
        observer.observe(each)
    low, high = observer.range(8)
    values = torch.cat(batches).double()
    share = percent / 100
    # A bin is at most a 2,048th of what was seen; values beside a quantile are farther apart.
    slack = float(values.amax().clamp(min=0) - values.amin().clamp(max=0)) / 1024
    for end, q in ((low, 1 - share), (high, share)):
        around = torch.quantile(values, torch.tensor([q - 2e-3, q + 2e-3]).clamp(0, 1).double())
        least, most = (float(x) for x in around)
        if end == 0.0:
            # Zero is within the range, even where no value is.
            assert most + slack >= 0.0 if q < 0.5 else least - slack <= 0.0
        else:
            assert least - slack <= end <= most + slack


def test_the_histogram_keeps_every_value_as_it_widens() -> None:
    observer = Percentile()
    total = 0
    for scale in (0.0, 1e-3, 1.0, -7.0, 300.0, 2.0):
        observer.observe(torch.linspace(-0.5, 1.0, 1001) * scale)
        total += 1001
        assert float(observer._counts.sum()) == total
    assert observer._start <= -3.5 * 42
    assert observer._start + observer._width >= 300.0


def test_percentile_cuts_off_an_outlier_and_mse_weighs_it() -> None:
    spread = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    values = torch.cat([spread, torch.tensor([50.0])])
    assert _seen("min_max", values)[1] == 50.0
    assert _seen("percentile", values)[1] == pytest.approx(1.0, abs=0.03)
    few, many = _seen("mse", values, bits=3)[1], _seen("mse", values, bits=8)[1]
    assert few < many < 50.0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_range_of_mse_is_the_best_of_a_brute_force(bits: int) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(3)) * 2 + 0.7

    def error(low: float, high: float) -> float:
        step, zero = affine(torch.tensor(low), torch.tensor(high), bits)
        whole = (values / step + zero).round().clamp(0, 2**bits - 1)
        return float(((whole - zero) * step - values).square().mean())

    observer = MeanSquare()
    observer.observe(values[:9000])
    observer.observe(values[9000:])
    least, most = float(values.min()), float(values.max())
    shares = [each / 25 for each in range(1, 26)]
    best = min(error(least * one, most * two) for one in shares for two in shares)
    assert error(*observer.range(bits)) <= best * 1.02


def test_affine_by_hand() -> None:
    step, zero = affine(torch.tensor(-1.0), torch.tensor(2.0), 2)
    assert (float(step), float(zero)) == (1.0, 1.0)


def test_kernel_steps_by_hand() -> None:
    kernel = torch.tensor([[[0.5, -3.5]], [[0.0, 0.0]], [[7.0, 0.1]]])
    torch.testing.assert_close(kernel_steps(kernel, 4, "min_max"), torch.tensor([0.5, 1.0, 1.0]))
    assert torch.equal(
        nearest(kernel, torch.tensor([0.5, 1.0, 1.0]), 4),
        torch.tensor([[[1.0, -7.0]], [[0.0, 0.0]], [[7.0, 0.0]]]),
    )


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_mse_steps_of_kernels_err_no_more_than_min_max(bits: int) -> None:
    kernel = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    kernel[0, 0] = 30.0

    def errors(observer: str) -> Tensor:
        steps = kernel_steps(kernel, bits, observer)  # type: ignore[arg-type]
        return (nearest(kernel, steps, bits) * steps[:, None] - kernel).square().sum(1)

    assert (errors("mse") <= errors("min_max") + 1e-6).all()
    if bits < 8:
        # The first channel's outlier is worth its width.
        assert errors("mse")[1:].sum() < errors("min_max")[1:].sum() * 0.9


def test_calibration_sets_what_each_layer_reads_unrounded() -> None:
    network, x = built(Chain)
    attach(network, {name: LayerDecision(32, 4) for name in ("a", "b", "hidden", "out")})
    seen: dict[str, list[Tensor]] = {}
    plain, _ = built(Chain)
    for name in ("a", "b", "hidden", "out"):
        layer = plain.get_submodule(name)
        layer.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(args[0])
        )
    plain(x), plain(2 * x)
    calibrate(network, [x, 2 * x], observer="min_max", steps={})
    for name, values in seen.items():
        low = min(min(float(each.min()) for each in values), 0.0)
        high = max(float(each.max()) for each in values)
        layer = network.get_submodule(name)
        assert float(layer.input_step) == pytest.approx((high - low) / 15)
        assert float(layer.input_zero) == round(-low / float(layer.input_step))
    # Rounds again from now on.
    assert not torch.equal(network(x), plain(x))


@pytest.mark.parametrize("fails", [False, True])
def test_calibration_leaves_no_hooks(fails: bool) -> None:
    network, x = built(Chain)
    attach(network, {name: LayerDecision(8, 8) for name in ("a", "b", "hidden", "out")})
    before = {name: len(each._forward_pre_hooks) for name, each in network.named_modules()}
    if fails:
        with pytest.raises(NonFiniteError, match=r"'a' reads NaN or infinity"):
            calibrate(network, [x, x * math.nan], observer="percentile", steps={})
    else:
        calibrate(network, [x], observer="percentile", steps={})
    after = {name: len(each._forward_pre_hooks) for name, each in network.named_modules()}
    assert after == before
    # Nothing stays paused either.
    assert not torch.equal(network(x), built(Chain)[0](x))


@pytest.mark.parametrize("kind", ALL)
def test_inputs_of_another_shape_are_named(kind: type[nn.Module]) -> None:
    network, x = built(kind)
    names = [name for name, each in network.named_modules() if isinstance(each, nn.Conv2d)]
    attach(network, dict.fromkeys(names, LayerDecision(8, 8)))
    with pytest.raises(InputError, match=r"takes \(n, 3, height, width\), given \(2, 8, 8, 3\)"):
        calibrate(network, [x.permute(0, 2, 3, 1)], observer="min_max", steps={})


def test_another_image_size_is_named_where_it_matters() -> None:
    network, x = built(Chain)
    attach(network, {"a": LayerDecision(8, 8)})
    with pytest.raises(InputError, match=r"'hidden' takes \(n, ..., 64\), given \(2, 16\)"):
        calibrate(network, [x[:, :, :4, :4]], observer="min_max", steps={})


def test_a_layer_that_reads_nothing_is_named() -> None:
    network, x = built(Chain)
    network.add_module("idle", nn.Linear(2, 2))
    attach(network, {"idle": LayerDecision(8, 8)})
    with pytest.raises(InputError, match="'idle' read nothing"):
        calibrate(network, [x], observer="min_max", steps={})


def test_known_steps_are_taken_over() -> None:
    network, x = built(Chain)
    attach(network, {"a": LayerDecision(8, 8), "b": LayerDecision(8, 8)})
    known = {"a.input_step": torch.tensor(0.25), "a.input_zero": torch.tensor(9.0)}
    calibrate(network, [x], observer="min_max", steps=known)
    assert (float(network.a.input_step), float(network.a.input_zero)) == (0.25, 9.0)
    assert float(network.b.input_step) != 1.0
