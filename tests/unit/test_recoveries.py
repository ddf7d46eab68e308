"""Recipes: the contract, and fine-tuning against loops that are written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autoprune import plugins
from autoprune.contracts.recovery import Batch, Recovery
from autoprune.data.augmentation import augmented
from autoprune.errors import DataError, NonFiniteError, PluginError
from autoprune.job.spec import PluginSpec
from autoprune.recoveries import finetune
from autoprune.recoveries._average import Average
from autoprune.recoveries._losses import Losses
from autoprune.recoveries._schedule import share_of_rate
from autoprune.recoveries.finetune import Finetune
from autoprune.testing.recovery import Killed, MemoryCheckpoint, RecoveryContract

CPU = torch.device("cpu")


class TestFinetune(RecoveryContract):
    def make(self) -> Recovery:
        return Finetune()


class TestEverythingOn(RecoveryContract):
    def make(self) -> Recovery:
        return Finetune(
            optimizer="adamw",
            schedule="rewind",
            warmup=0.2,
            ema=0.9,
            augmentation="cutout",
            patience=7,
            clip=None,
        )


class TestMixedPrecision(RecoveryContract):
    def make(self) -> Recovery:
        return Finetune(mixed_precision=True, ema=0.5, schedule="constant")


SUITE = TestFinetune()


def plain_loop(network: nn.Module, steps: int) -> None:
    """Fine-tune as it has always been done."""
    training = SUITE.training(network)
    optimizer = torch.optim.SGD(
        network.parameters(), 0.02, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    network.requires_grad_(True).train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5 * 0.02 * (1 + math.cos(math.pi * step / steps))
        batch = training.batch(step)
        for_batch, for_network = training.seeds(step)
        images, _ = augmented(batch.inputs, torch.Generator().manual_seed(for_batch))
        torch.manual_seed(for_network)
        loss = cross_entropy(network(images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()


def test_the_defaults_are_a_plain_loop() -> None:
    network = SUITE.network()
    with torch.random.fork_rng(devices=[]):
        plain_loop(network, 12)
    trained = SUITE.trained()
    assert all(torch.equal(each, trained[name]) for name, each in network.state_dict().items())


def test_steps_draw_different_things() -> None:
    training = SUITE.training(SUITE.network())
    seeds = {each for step in range(20) for each in training.seeds(step)}
    assert len(seeds) == 40
    assert training.seeds(7) == SUITE.training(SUITE.network()).seeds(7)


# -- schedules -----------------------------------------------------------------------------


def test_schedules_by_hand() -> None:
    cosine = [share_of_rate("cosine", step, 4, 0.0) for step in range(4)]
    assert cosine == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    rewound = [share_of_rate("rewind", step, 6, 0.0) for step in range(6)]
    assert rewound == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    warm = [share_of_rate("constant", step, 8, 0.5) for step in range(8)]
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def steepness(**options: Any) -> float:
    """Return how far three steps move a bias whose gradient is always one, rate 1."""
    network = SUITE.network()
    bias = network.get_parameter("5.bias")
    before = bias.detach().clone()
    training = SUITE.training(network, steps=3, learning_rate=1.0, loss=lambda _: bias.sum())
    Finetune(weight_decay=0.0, **options).recover(training)
    moves = before - bias
    assert torch.allclose(moves, moves[0])
    return float(moves[0])


def test_rates_momentum_and_clipping_by_hand() -> None:
    # Nesterov's moves under a gradient of one: 1 + 0.9 v with v = 1, 1.9, 2.71.
    moves = (1.9, 2.71, 3.439)
    assert steepness(schedule="constant") == pytest.approx(sum(moves))
    assert steepness(schedule="rewind") == pytest.approx(1.9 + 0.271 + 0.03439)
    assert steepness() == pytest.approx(1.9 + 0.75 * 2.71 + 0.25 * 3.439)
    warm = steepness(schedule="constant", warmup=2 / 3)
    assert warm == pytest.approx(0.95 + 2.71 + 3.439)
    # Three biases: the norm of the gradient is √3.
    assert steepness(schedule="constant", clip=0.1) == pytest.approx(
        sum(moves) * 0.1 / math.sqrt(3), rel=1e-4
    )
    # Adam's first moves are the rate, whatever the gradient.
    assert steepness(schedule="constant", optimizer="adamw") == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize(("optimizer", "kept"), [("sgd", 0.981), ("adamw", 0.99)])
def test_weights_decay(optimizer: Any, kept: float) -> None:
    # By 0.02 · 0.5 of themselves, under Nesterov's first step by 1.9 times that.
    network = SUITE.network()
    weight, bias = (network.get_parameter(f"5.{name}") for name in ("weight", "bias"))
    before = weight.detach().clone()
    training = SUITE.training(network, steps=1, loss=lambda _: bias.sum() + 0 * weight.sum())
    Finetune(optimizer=optimizer, weight_decay=0.5, clip=None).recover(training)
    torch.testing.assert_close(weight.detach(), kept * before)


# -- averages ------------------------------------------------------------------------------


def test_averages_by_hand() -> None:
    norm = nn.BatchNorm1d(1)
    average = Average(norm, 0.25)
    norm.running_mean.fill_(8.0)  # type: ignore[union-attr]
    norm.num_batches_tracked.fill_(5)  # type: ignore[union-attr]
    average.update(0)  # 1/10 stays, as there is no more to remember
    assert float(average.tensors["running_mean"]) == pytest.approx(7.2)
    assert int(average.tensors["num_batches_tracked"]) == 5
    norm.weight.data.fill_(3.0)
    average.update(1000)  # now a quarter stays
    assert float(average.tensors["running_mean"]) == pytest.approx(0.25 * 7.2 + 0.75 * 8.0)
    assert float(average.tensors["weight"]) == pytest.approx(0.25 * 1.0 + 0.75 * 3.0)
    assert float(norm.weight.detach()) == 3.0


def test_the_average_is_the_result() -> None:
    plain, averaged = SUITE.network(), SUITE.network()
    states = []
    training = SUITE.training(plain)

    def watched(batch: Any) -> Any:
        states.append({name: each.clone() for name, each in plain.state_dict().items()})
        return training.loss(batch)

    Finetune().recover(SUITE.training(plain, loss=watched, steps=4))
    Finetune(ema=0.999).recover(SUITE.training(averaged, steps=4))
    states.append(plain.state_dict())
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        expected = states[0][name]
        for step, state in enumerate(states[1:]):
            kept = (1 + step) / (10 + step)
            expected = kept * expected + (1 - kept) * state[name]
        torch.testing.assert_close(averaged.state_dict()[name], expected, rtol=1e-5, atol=1e-6)


# -- plateaus and numbers ------------------------------------------------------------------


def test_a_plateau_ends_the_training() -> None:
    losses = Losses(CPU, patience=2)
    seen = []
    for step, value in enumerate([5.0, 3.0, 4.0, 3.5, 3.0, 4.6, 1.0, 1.0]):
        losses.add(step, torch.tensor(value))
        seen.append(losses.is_on_plateau)
    # Sums of two: 8, 7.5, 7.6 (no lower), 2.
    assert seen == [False, False, False, False, False, True, True, False]


@pytest.mark.parametrize("lives", [3, 6, 8])
def test_a_training_that_was_killed_ends_at_the_same_plateau(lives: int) -> None:
    taken = []
    network = SUITE.network()

    def stuck(_: Any) -> Any:
        taken.append(1)
        return 0.0 * network.get_parameter("5.bias").sum() + 1.0

    checkpoint = MemoryCheckpoint(lives)
    training = SUITE.training(network, loss=stuck, checkpoint=checkpoint)
    with pytest.raises(Killed):
        Finetune(patience=4).recover(training)
    assert len(taken) == lives
    checkpoint.lives = None
    Finetune(patience=4).recover(training)
    assert len(taken) == 8


def test_losses_read_together_name_the_first_that_is_none() -> None:
    losses = Losses(torch.device("cuda"), patience=None)  # nothing of it touches the device
    for step in range(9):
        losses.add(step, torch.tensor(float("nan") if step in (6, 8) else 1.0))
        assert not losses.is_read
    with pytest.raises(NonFiniteError, match="step 6"):
        losses.add(9, torch.tensor(1.0))


@pytest.mark.parametrize("step", [4, 10])
def test_on_a_gpu_steps_are_named_and_checkpoints_wait(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(finetune, "Losses", lambda _, patience: Losses(gpu, patience))
    checkpoint, losses = MemoryCheckpoint(), iter(range(24))
    network = SUITE.network()
    plain = SUITE.training(network, checkpoint=checkpoint)
    Finetune().recover(plain)
    assert checkpoint.content is not None
    assert checkpoint.content[1]["step"] == 10  # when losses were read

    def loss(batch: Batch) -> Any:
        return plain.loss(batch) * (float("nan") if next(losses) == step else 1.0)

    with pytest.raises(NonFiniteError, match=f"the loss is nan at fine-tuning step {step}$"):
        Finetune().recover(SUITE.training(network, loss=loss))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("mixed", [False, True])
def test_weights_that_explode_name_the_step(optimizer: Any, ema: Any, mixed: bool) -> None:
    recovery = Finetune(optimizer=optimizer, ema=ema, mixed_precision=mixed, clip=None)
    with pytest.raises(NonFiniteError, match=r"fine-tuning step [0-9]"):
        recovery.recover(SUITE.training(SUITE.network(), learning_rate=1e30))


def test_the_last_step_is_looked_at_as_well() -> None:
    network = SUITE.network()
    bias = network.get_parameter("5.bias")
    training = SUITE.training(network, steps=1, loss=lambda _: bias.sum(), learning_rate=3e38)
    with pytest.raises(NonFiniteError, match="bias is not finite after fine-tuning step 0"):
        Finetune(clip=None).recover(training)


def test_mixed_precision_runs_layers_in_bfloat16_over_float32_weights() -> None:
    network = SUITE.network()
    kinds = set()
    network[0].register_forward_hook(lambda _, __, outputs: kinds.add(outputs.dtype))
    Finetune(mixed_precision=True).recover(SUITE.training(network, steps=2))
    assert kinds == {torch.bfloat16}
    assert {each.dtype for each in network.parameters()} == {torch.float32}


# -- options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"weight_decay": -1}, "must not be negative"),
        ({"warmup": 1.0}, r"in \[0, 1\)"),
        ({"ema": 1.0}, "such as 0.999"),
        ({"patience": 0}, "at least 1 step"),
        ({"clip": 0}, "above zero"),
        ({"optimizer": "sdg"}, "sgd"),
        ({"shedule": "cosine"}, "did you mean 'schedule'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(PluginError, match=rule):
        plugins.create("recovery", PluginSpec(name="finetune", options=options))


# -- augmentation --------------------------------------------------------------------------


def images() -> torch.Tensor:
    return torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(2)) + 1.0


def test_shifts_and_mirrors_are_what_they_are_said_to_be() -> None:
    plain = images()
    shifts = set()
    for seed in range(40):
        changed, mirrored = augmented(plain, torch.Generator().manual_seed(seed))
        assert mirrored is not None
        assert 0 < int(mirrored.sum()) < 64
        upright = torch.where(mirrored.view(-1, 1, 1, 1), changed.flip(3), changed)
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                upright[:, :, max(down, 0) : 16 + min(down, 0), max(right, 0) : 16 + min(right, 0)],
                plain[:, :, max(-down, 0) : 16 - max(down, 0), max(-right, 0) : 16 - max(right, 0)],
            )
        ]
        assert len(found) == 1
        (down, right) = found[0]
        seen = (16 - abs(down)) * (16 - abs(right))
        assert int((upright == 0).sum()) == 64 * 3 * (256 - seen)  # the rest is their mean
        shifts.add(found[0])
    assert len(shifts) > 15


def test_a_square_is_cut_out_of_every_image() -> None:
    plain = images()
    places = set()
    shifted, _ = augmented(plain, torch.Generator().manual_seed(1), "crop_flip")
    cut, _ = augmented(plain, torch.Generator().manual_seed(1), "cutout")
    for before, after in zip(shifted, cut, strict=True):
        # A row is blank where all of its pixels within the square are; the shift blanks too.
        changed = (before != after).any(0)
        assert bool((after[:, changed] == 0).all())
        rows, columns = (changed.any(dim).nonzero().flatten() for dim in (1, 0))
        assert len(rows) <= 8
        assert len(columns) <= 8
        assert int(changed.sum()) == len(rows) * len(columns)
        places.add((int(rows[0]), int(columns[0])))
        if rows[0] > 2 and rows[-1] < 13 and columns[0] > 2 and columns[-1] < 13:
            assert len(rows) == len(columns) == 8
    assert len(places) > 30


def test_what_is_augmented_depends_on_the_data() -> None:
    grey, rows = images()[:, :1], torch.rand(4, 5)
    for inputs in (grey, rows):
        for kind in ("auto", "none"):
            changed, mirrored = augmented(inputs, torch.Generator().manual_seed(0), kind)
            assert changed is inputs
            assert mirrored is None
    changed, mirrored = augmented(grey, torch.Generator().manual_seed(0), "crop_flip")
    assert mirrored is not None
    assert not torch.equal(changed, grey)
    with pytest.raises(DataError, match=r"'cutout' needs images, but a sample has shape \(5,\)"):
        augmented(rows, torch.Generator().manual_seed(0), "cutout")


def test_the_augmentation_of_a_recipe_reaches_the_loss() -> None:
    for kind in ("none", "crop_flip"):
        network, batches = SUITE.network(), []
        training = SUITE.training(network, steps=2)

        def loss(batch: Batch, batches: Any = batches, training: Any = training) -> Any:
            batches.append(batch)
            return training.loss(batch)

        Finetune(augmentation=kind).recover(SUITE.training(network, steps=2, loss=loss))
        is_same = [
            torch.equal(each.inputs, training.batch(x).inputs) for x, each in enumerate(batches)
        ]
        assert is_same == [kind == "none"] * 2
        assert all((each.mirrored is None) == (kind == "none") for each in batches)
