"""Errors under corruption and under attack: by hand, on a trained network, and against ART."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autoprune.contracts.objective import Objective, Samples, Subject
from autoprune.errors import InputError
from autoprune.graph.cost import Costs
from autoprune.objectives._corruptions import KINDS, corrupt
from autoprune.objectives._intervals import share
from autoprune.objectives.adversarial_error import AdversarialError
from autoprune.objectives.corruption_error import CorruptionError
from autoprune.testing import ObjectiveContract

COSTS = Costs(1, 1, 1)
Forward = Callable[[Tensor], Tensor]


def subject(
    forward: Forward, inputs: Tensor, labels: Tensor, *, batch: int = 100, is_image: bool = True
) -> Subject:
    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        kept = inputs[:count], labels[:count]
        return zip(*(each.split(batch) for each in kept), strict=True)

    network = forward if isinstance(forward, nn.Module) else None
    return Subject(COSTS, samples=Samples(batches, forward, is_image), network=network)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


@pytest.fixture(scope="module")
def network(digits: tuple[Tensor, Tensor]) -> nn.Module:
    """A small network with batch normalisation, trained on all but the first 400 digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
    images, labels = digits[0][400:], digits[1][400:]
    optimiser = torch.optim.Adam(layers.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(layers(images), labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    return layers.eval()


class TestCorruptionError(ObjectiveContract):
    num_classes = 10

    @pytest.fixture(autouse=True)
    def _material(self, network: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
        self.network, self.digits = network, digits

    def make(self) -> Objective:
        return CorruptionError(images=200)

    def better(self) -> Subject:
        return subject(self.network, *self.digits)

    def worse(self) -> Subject:
        blind = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        return subject(blind, *self.digits)


class TestAdversarialError(TestCorruptionError):
    def make(self) -> Objective:
        return AdversarialError(steps=3, images=200)


def noise(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [8, 32, 64])
def test_corruptions_are_seeded_bounded_and_grow_with_severity(kind: str, side: int) -> None:
    # Smooth, and every other severity: coarser pixels may happen to lie nearer than finer ones.
    smooth = nn.functional.interpolate(noise(2), side, mode="bicubic")
    images = (0.2 + 0.5 * smooth).clamp(0, 1).to(memory_format=torch.channels_last)
    before, state = images.clone(), torch.get_rng_state()
    mild, middle, heavy = (
        (corrupt(images, kind, each, 0) - images).abs().mean().item() for each in (1, 3, 5)
    )
    assert 0 < mild < middle < heavy
    assert images.equal(before)
    assert torch.equal(torch.get_rng_state(), state)
    first, again = (corrupt(noise(side), kind, 5, 0) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, first.clamp(0, 1))


def test_only_noise_depends_on_the_seed() -> None:
    for kind in KINDS:
        first, second = (corrupt(noise(32), kind, 3, seed) for seed in (0, 1))
        assert torch.equal(first, second) == (not kind.endswith("noise"))


def test_noise_has_the_deviation_of_its_level() -> None:
    grey = torch.full((4, 3, 60, 60), 0.5)
    assert float(corrupt(grey, "gaussian_noise", 3, 0).std()) == pytest.approx(0.08, rel=0.03)
    # Where 30 photons are expected, whole photons come with the deviation sqrt(30).
    counts = corrupt(torch.full((4, 3, 60, 60), 0.3), "shot_noise", 3, 0) * 100
    assert torch.allclose(counts, counts.round(), atol=1e-3)
    assert float(counts.mean()) == pytest.approx(30, rel=0.01)
    assert float(counts.std()) == pytest.approx(30**0.5, rel=0.03)


def test_brightness_and_contrast_by_hand() -> None:
    images = torch.tensor([[[[0.2, 0.4], [0.6, 0.95]]]])
    brighter = corrupt(images, "brightness", 2, 0)
    assert torch.allclose(brighter, torch.tensor([[[[0.3, 0.5], [0.7, 1.0]]]]))
    flatter = corrupt(images, "contrast", 2, 0)  # the mean is 0.5375, half of the way is left
    assert torch.allclose(flatter, 0.5375 + 0.5 * (images - 0.5375))


def test_pixelation_by_hand() -> None:
    images = noise(64)
    blocks = images.view(2, 3, 32, 2, 32, 2).mean(dim=(3, 5))
    expected = blocks.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(corrupt(images, "pixelate", 2, 0), expected)


def test_defocus_equals_a_slow_convolution() -> None:
    images = noise(9)
    # Severity 4 of small images has radius 1.2: whole at 0 and 1, the diagonal in part.
    diagonal = 1.7 - 2**0.5
    kernel = np.array([[diagonal, 0.7, diagonal], [0.7, 1, 0.7], [diagonal, 0.7, diagonal]])
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
    expected = np.zeros(images.shape)
    for y in range(9):
        for x in range(9):
            window = padded[:, :, y : y + 3, x : x + 3]
            expected[:, :, y, x] = (window * kernel).sum(axis=(2, 3)) / kernel.sum()
    assert np.allclose(corrupt(images, "defocus_blur", 4, 0).numpy(), expected, atol=1e-6)


def test_corruption_error_is_the_mean_over_kinds_and_images() -> None:
    # The network says 1 where the mean is above a half; only brightening lifts these over it.
    images = torch.tensor([0.45, 0.1, 0.9, 0.3]).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    labels = torch.tensor([0, 0, 1, 1])

    def forward(inputs: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        bright = inputs.mean(dim=(1, 2, 3)) > 0.5
        return nn.functional.one_hot(bright.long(), 2).float()

    objective = CorruptionError(kinds=("brightness", "contrast"))
    measured = objective.measure(subject(forward, images, labels, batch=3))
    assert measured.parts == {"brightness": share(2, 4), "contrast": share(1, 4)}
    # By image: 1/2, 0, 0, 1.
    assert measured.value == pytest.approx(0.375)
    deviation = np.std([0.5, 0, 0, 1], ddof=1) / 2
    assert measured.high == pytest.approx(0.375 + 1.959964 * deviation)


def test_outputs_that_are_not_finite_find_no_class() -> None:
    def forward(inputs: Tensor) -> Tensor:
        return torch.full((len(inputs), 2), float("nan"))

    broken = subject(forward, torch.rand(4, 1, 8, 8), torch.zeros(4).long())
    assert CorruptionError(kinds=("contrast",)).measure(broken).value == 1.0


def test_only_the_first_images_are_corrupted() -> None:
    seen: list[int] = []

    def forward(inputs: Tensor) -> Tensor:
        seen.append(len(inputs))
        return torch.zeros(len(inputs), 2)

    many = subject(forward, torch.rand(50, 1, 8, 8), torch.zeros(50).long(), batch=8)
    CorruptionError(kinds=("contrast",), images=20).measure(many)
    assert seen == [8, 8, 4]


def test_other_inputs_than_images_are_not_corrupted() -> None:
    rows = subject(nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4).long(), is_image=False)
    with pytest.raises(InputError, match=r"corrupts images.*adversarial_error"):
        CorruptionError().measure(rows)


def test_options_of_corruption_are_checked() -> None:
    with pytest.raises(ValueError, match=r"unknown kind 'gausian_noise'.*did you mean 'gaussian"):
        CorruptionError(kinds=("gausian_noise",))
    for kinds in ((), ("contrast", "contrast")):
        with pytest.raises(ValueError, match="at least one corruption, each once"):
            CorruptionError(kinds=kinds)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity must be 1 to 5, given {severity}"):
            CorruptionError(severity=severity)
    with pytest.raises(ValueError, match="images must be at least 1"):
        CorruptionError(images=0)
    assert CorruptionError().reference(0.1, 10) == pytest.approx(0.9)


def linear(weight: list[float], bias: float) -> nn.Linear:
    """Class 1 where weight · x + bias > 0."""
    layer = nn.Linear(len(weight), 2)
    layer.weight.data = torch.tensor([[0.0] * len(weight), weight])
    layer.bias.data = torch.tensor([0.0, bias])
    return layer.requires_grad_(False)


@pytest.mark.parametrize("steps", [1, 10])
def test_attack_on_a_linear_network_by_hand(steps: int) -> None:
    # A value moves by 0.1 at most, so the sum 2 x - y by 0.3 at most.
    inputs = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.0, 0.25], [0.0, 0.35], [0.0, 0.1]])
    labels = torch.tensor([1, 1, 0, 0, 1])  # sums 0.2, 0.4, -0.25, -0.35, and one wrong already
    given_subject = subject(linear([2.0, -1.0], 0.0), inputs, labels, is_image=False)
    measured = AdversarialError(epsilon=0.1, steps=steps).measure(given_subject)
    assert measured.parts == {"clean": share(1, 5)}
    assert measured.value == pytest.approx(3 / 5)
    assert (measured.low, measured.high) == (share(3, 5).low, share(3, 5).high)
    assert measured.note == ""


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 0.5), st.sampled_from([1, 7]))
def test_attack_on_a_linear_network_takes_every_margin_within_reach(
    seed: int, epsilon: float, steps: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(40, 5, generator=generator)
    weight = torch.randn(5, generator=generator)
    labels = torch.randint(2, (40,), generator=generator)
    sums = inputs @ weight
    margins = torch.where(labels == 1, sums, -sums)
    reach = epsilon * weight.abs().sum()
    expected = (margins <= reach).sum().item()
    unsure = ((margins - reach).abs() < 1e-4).sum().item()
    given_subject = subject(linear(weight.tolist(), 0.0), inputs, labels, is_image=False)
    measured = AdversarialError(epsilon=epsilon, steps=steps).measure(given_subject)
    assert abs(measured.value * 40 - expected) <= unsure + 1e-6


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("is_image", [True, False])
def test_an_attack_stays_in_its_ball_and_images_in_the_unit_interval(
    steps: int, is_image: bool
) -> None:
    inputs = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(9)).round()
    seen: list[Tensor] = []
    layers = nn.Sequential(nn.Flatten(), linear([1.0, -1.0] * 32, 0.0))

    def forward(points: Tensor) -> Tensor:
        seen.append(points.detach().clone())
        logits: Tensor = layers(points)
        return logits

    labels = torch.zeros(16).long()
    AdversarialError(epsilon=0.25, steps=steps).measure(
        subject(forward, inputs, labels, is_image=is_image)
    )
    assert len(seen) == steps + 2
    farthest = max(float((each - inputs).abs().max()) for each in seen)
    assert farthest == pytest.approx(0.25)
    outside = max(float((each - 0.5).abs().max()) for each in seen) > 0.5
    assert outside == (not is_image)
    # PGD starts anywhere in the ball, FGSM at the input.
    start = seen[1] - inputs
    assert (start.min() < -0.24 and start.max() > 0.24) == (steps > 1)
    assert start.any() == (steps > 1)


def test_a_step_that_repairs_an_input_does_not_make_it_right() -> None:
    def forward(points: Tensor) -> Tensor:
        peak = -((points[:, 0] - 0.5) ** 2)
        return torch.stack([peak, torch.full_like(peak, -0.01)], dim=1)

    inputs, labels = torch.tensor([[0.55], [0.55]]), torch.tensor([1, 0])
    given_subject = subject(forward, inputs, labels, is_image=False)
    measured = AdversarialError(epsilon=0.3).measure(given_subject)
    # The first is wrong (0 is said) and a step towards the peak and beyond makes it right.
    assert forward(torch.tensor([[0.25]])).argmax() == 1
    assert measured.parts["clean"].value == 0.5
    assert measured.value == 1.0


def test_one_point_that_fools_is_enough_and_so_is_one_gradient() -> None:
    calls: list[int] = []

    def forward(points: Tensor) -> Tensor:
        # Clean input, three points to step from, and the last: only the third call is special.
        calls.append(len(calls))
        is_third = len(calls) == 3
        slope = points.sum(dim=1) * float(is_third)
        return torch.stack([slope, slope * 0 + (100.0 if is_third else -100.0)], dim=1)

    given_subject = subject(forward, torch.rand(3, 2), torch.zeros(3).long(), is_image=False)
    measured = AdversarialError(steps=3).measure(given_subject)
    assert len(calls) == 5
    assert (measured.value, measured.parts["clean"].value) == (1.0, 0.0)
    assert measured.note == ""


def test_a_masked_gradient_is_named(network: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:50], digits[1][:50]

    def masked(inputs: Tensor) -> Tensor:
        logits: Tensor = network((inputs * 15).round() / 15)
        return logits

    for steps in (1, 3):
        measured = AdversarialError(steps=steps).measure(subject(masked, images, labels))
        assert measured.note == "no gradient reached 50 of 50 inputs"
    honest = AdversarialError().measure(subject(network, images, labels))
    assert honest.note == ""


def test_a_gradient_that_is_no_number_is_named_not_followed() -> None:
    # The derivative of the root is infinite at 0, times 0: not a number.
    def forward(points: Tensor) -> Tensor:
        root = (points * 0).sqrt().sum(dim=1)
        return torch.stack([root, root - 1], dim=1)

    still = subject(forward, torch.rand(3, 2), torch.zeros(3).long(), is_image=False)
    measured = AdversarialError().measure(still)
    assert (measured.value, measured.note) == (0.0, "no gradient reached 3 of 3 inputs")


def test_the_network_gets_no_gradients_and_the_world_no_numbers(
    network: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    given_subject = subject(network, digits[0][:50], digits[1][:50])
    state = torch.get_rng_state()
    with torch.no_grad():
        first = AdversarialError(steps=4).measure(given_subject)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(each.requires_grad and each.grad is None for each in network.parameters())
    assert AdversarialError(steps=4).measure(given_subject) == first


def test_options_of_the_attack_are_checked() -> None:
    for options in ({"steps": 0}, {"images": 0}):
        with pytest.raises(ValueError, match="steps and images must be at least 1"):
            AdversarialError(**options)
    for wrong in ({"epsilon": 0.0}, {"step_size": -1.0}, {"epsilon": float("nan")}):
        with pytest.raises(ValueError, match="above 0"):
            AdversarialError(**wrong)
    assert AdversarialError(epsilon=0.1, steps=5).step_size == pytest.approx(0.05)
    assert AdversarialError().reference(0.9, 10) == 1.0


@pytest.mark.parametrize("steps", [1, 10])
def test_attacks_are_at_least_as_strong_as_those_of_art(
    network: nn.Module,
    digits: tuple[Tensor, Tensor],
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # its import writes into the home directory
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    images, labels = digits[0][:400], digits[1][:400]
    classifier = PyTorchClassifier(
        network,
        nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    for epsilon in (0.05, 0.1, 0.2):
        ours = AdversarialError(epsilon=epsilon, steps=steps, images=400)
        if steps == 1:
            attack = FastGradientMethod(classifier, eps=epsilon)
        else:
            # From the input itself: ART draws a start from the global generator.
            attack = ProjectedGradientDescentPyTorch(
                classifier, eps=epsilon, eps_step=ours.step_size, max_iter=steps, verbose=False
            )
        theirs = attack.generate(images.numpy(), labels.numpy())
        error = float((classifier.predict(theirs).argmax(axis=1) != labels.numpy()).mean())
        value = ours.measure(subject(network, images, labels)).value
        assert 0.05 < error < 1
        # FGSM is the same attack; PGD's result moves by 1.5 % with its start, ART's too.
        assert value == pytest.approx(error, abs=0.003) if steps == 1 else value >= error - 0.02
