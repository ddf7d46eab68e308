"""Suite for recoveries: inherit, and say how yours is made.

class TestMine(RecoveryContract):
    def make(self):
        return Mine()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autoprune.contracts.recovery import Batch, Checkpoint, Recovery, Training
from autoprune.criteria.l1 import L1
from autoprune.errors import NonFiniteError
from autoprune.policy import LayerDecision, Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import score_groups
from autoprune.surgery.plan import Plan
from autoprune.surgery.removal import Removal
from autoprune.surgery.sparsify import Sparsity, mask_of, settle
from autoprune.tracing.discovery import discover

STEPS = 12
_SAMPLES, _BATCH = 48, 16


class Killed(Exception):
    """A process ended from outside."""


class MemoryCheckpoint(Checkpoint):
    """Keeps copies; due after every step, and deadly after `lives` of them."""

    def __init__(self, lives: int | None = None) -> None:
        self.lives = lives
        self.content: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    @property
    def is_due(self) -> bool:
        return True

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.content

    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        # As from a file: copies, laid out row by row.
        copies = {name: each.detach().clone().contiguous() for name, each in tensors.items()}
        self.content = copies, dict(about)
        if self.lives is not None:
            self.lives -= 1
            if self.lives == 0:
                raise Killed


class RecoveryContract:
    """What every recovery promises, on a small network with batch norm and dropout."""

    def make(self) -> Recovery:
        """Return the recovery under test."""
        raise NotImplementedError

    def network(self) -> nn.Module:
        """Return the network to train, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Flatten(),
                nn.Linear(6 * 64, 3),
            )
        for each in network.parameters():
            if each.dim() == 4:
                each.data = each.data.contiguous(memory_format=torch.channels_last)
        return network.requires_grad_(False).eval()

    def training(self, network: nn.Module, **more: Any) -> Training:
        """Return a training on images whose class is their brightest channel."""
        images = torch.randn(_SAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        images = images.contiguous(memory_format=torch.channels_last)
        labels = images.mean((2, 3)).argmax(1)

        def batch(step: int) -> Batch:
            rows = (torch.arange(_BATCH) + _BATCH * step) % _SAMPLES
            return Batch(images[rows], labels[rows], rows)

        options: dict[str, Any] = {
            "steps": STEPS,
            "seed": 3,
            "learning_rate": 0.02,
            "batch": batch,
            "loss": lambda one: cross_entropy(network(one.inputs).float(), one.labels),
            "checkpoint": MemoryCheckpoint(),
        }
        return Training(network, **options | more)

    def removal(self) -> Removal:
        """Return half of the units of the network, for recoveries that begin with all of them."""
        if not self.make().begins_dense:
            pytest.skip("it is given networks whose units have left before")
        network = self.network()
        example = self.training(network).batch(0).inputs[:2]
        groups = discover(network, example).groups
        scores = {"l1": score_groups(L1(), Evidence(network, groups)).scores}
        halves = Policy.from_keep_ratios({each.name: 0.5 for each in groups.prunable})
        return Removal(Plan(network, groups, scores), groups.canonical(halves), scores)

    def trained(self, **more: Any) -> dict[str, Tensor]:
        """Train the network and return its state."""
        network = self.network()
        self.make().recover(self.training(network, **more))
        return {name: each.clone() for name, each in network.state_dict().items()}

    def continued(self, deaths: Sequence[int], **more: Any) -> dict[str, Tensor]:
        """Train the network, killed after so many steps each time, and return its state."""
        checkpoint = MemoryCheckpoint()
        for lives in deaths:
            checkpoint.lives = lives
            with pytest.raises(Killed):
                self.trained(checkpoint=checkpoint, **more)
        checkpoint.lives = None
        return self.trained(checkpoint=checkpoint, **more)

    def test_the_loss_falls(self) -> None:
        network = self.network()
        training = self.training(network, steps=10 * STEPS)

        def loss() -> float:
            with torch.no_grad():
                return float(sum(training.loss(training.batch(step)) for step in range(3)))

        before = loss()
        self.make().recover(training)
        assert loss() < 0.8 * before

    def test_the_network_is_left_in_eval_mode_without_gradients(self) -> None:
        network = self.network()
        self.make().recover(self.training(network))
        assert not any(each.training for each in network.modules())
        assert not any(each.requires_grad for each in network.parameters())

    def test_the_seed_decides(self) -> None:
        first, again, other = (self.trained(seed=seed) for seed in (3, 3, 4))
        assert _equal(first, again)
        assert not _equal(first, other)

    def test_no_global_random_state_is_read_or_changed(self) -> None:
        states = []
        with torch.random.fork_rng(devices=[]):
            for disturbance in (5, 6):
                torch.default_generator.manual_seed(disturbance)
                before = torch.get_rng_state()
                states.append(self.trained())
                assert torch.equal(torch.get_rng_state(), before)
        assert _equal(*states)

    @pytest.mark.parametrize("deaths", [(1,), (5,), (STEPS - 1,), (2, 4, 1)])
    def test_killed_and_continued_is_uninterrupted(self, deaths: tuple[int, ...]) -> None:
        assert _equal(self.continued(deaths), self.trained())

    def test_as_many_weights_leave_as_is_wanted(self) -> None:
        plain, network = self.network(), self.network()
        sparsity = _sparsity(network)
        before = sparsity.masks()
        if not self.make().chooses_weights:
            settle(network, before)
        self.make().recover(self.training(network, sparsity=sparsity))
        for name, mask in before.items():
            there = network.get_parameter(name) != 0
            # What grew last is zero until a gradient reaches it.
            assert 0.7 * int(mask.sum()) <= int(there.sum()) <= int(mask.sum())
            assert torch.equal(there, mask_of(there.float(), sparsity.decisions[name]) & there)
            if not self.make().chooses_weights:
                assert not (there & ~mask).any()
            assert not torch.equal(network.get_parameter(name), plain.get_parameter(name) * mask)

    def test_it_reads_the_criterion_where_it_says_so(self) -> None:
        by_size = _sparsity(self.network())
        others = {name: -each for name, each in by_size.saliencies.items()}
        is_read = not _equal(
            self.trained(sparsity=by_size),
            self.trained(sparsity=replace(by_size, saliencies=others)),
        )
        assert is_read == self.make().reads_criterion

    @pytest.mark.parametrize("deaths", [(1,), (5, 3)])
    def test_killed_and_continued_it_lets_the_same_weights_leave(
        self, deaths: tuple[int, ...]
    ) -> None:
        sparsity = _sparsity(self.network())
        continued = self.continued(deaths, sparsity=sparsity)
        assert _equal(continued, self.trained(sparsity=sparsity))

    def test_units_leave_without_changing_what_is_computed(self) -> None:
        removal, network, before = self.removal(), self.network(), self.network()
        self.make().recover(self.training(network, removal=removal))
        for name, mask in removal.masks().items():
            assert not network.get_parameter(name)[~mask].any()
            assert not torch.equal(network.get_parameter(name), before.get_parameter(name) * mask)
        inputs = self.training(network).batch(0).inputs
        carved = removal.carve(network)
        torch.testing.assert_close(carved(inputs), network(inputs), rtol=1e-4, atol=1e-5)
        kept = sum(each.numel() for each in carved.parameters())
        assert kept < sum(each.numel() for each in network.parameters())

    @pytest.mark.parametrize("deaths", [(1,), (5, 3), (STEPS - 1,)])
    def test_killed_and_continued_it_prepares_the_same_units(self, deaths: tuple[int, ...]) -> None:
        removal = self.removal()
        continued = self.continued(deaths, removal=removal)
        assert _equal(continued, self.trained(removal=removal))

    def test_a_loss_that_is_no_number_names_its_step(self) -> None:
        network = self.network()
        training = self.training(network)
        losses = iter(range(STEPS))

        def loss(batch: Batch) -> Tensor:
            return training.loss(batch) * (float("nan") if next(losses) == 4 else 1.0)

        with pytest.raises(NonFiniteError, match="step 4"):
            self.make().recover(self.training(network, loss=loss))


def _sparsity(network: nn.Module) -> Sparsity:
    """Return a share of one kernel's weights, and two of four of another's, by magnitude."""
    decisions = {
        "0.weight": LayerDecision(keep_ratio=0.3),
        "5.weight": LayerDecision(pattern="2:4"),
    }
    saliencies = {name: network.get_parameter(name).detach().abs() for name in decisions}
    return Sparsity(decisions, saliencies)


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Say whether two states are equal, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(each, second[name]) for name, each in first.items()
    )
