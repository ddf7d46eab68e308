"""Recoveries that begin with the dense network: the contract, and each against slow twins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autoprune import plugins
from autoprune.contracts.recovery import Batch, Recovery, Training
from autoprune.criteria.l1 import L1
from autoprune.errors import PluginError
from autoprune.graph.group import PrunableGroup, Slice
from autoprune.job.spec import ModelSpec, PluginSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.recoveries._leaving import UnitRecovery
from autoprune.recoveries.finetune import Finetune
from autoprune.recoveries.gradual_units import GradualUnits
from autoprune.recoveries.group_lasso import GroupLasso
from autoprune.recoveries.growing import Growing
from autoprune.recoveries.slimming import Slimming
from autoprune.recoveries.soft_filters import SoftFilters
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import score_groups
from autoprune.surgery.plan import Plan
from autoprune.surgery.removal import Removal
from autoprune.testing.recovery import MemoryCheckpoint, RecoveryContract
from autoprune.tracing.discovery import discover
from tests.zoo import entry


class TestSlimming(RecoveryContract):
    def make(self) -> Recovery:
        return Slimming()


class TestGroupLasso(RecoveryContract):
    def make(self) -> Recovery:
        return GroupLasso(until=0.5, ema=0.9)


class TestGrowing(RecoveryContract):
    def make(self) -> Recovery:
        return Growing(every=2, optimizer="adamw", clip=None)


class TestGradualUnits(RecoveryContract):
    def make(self) -> Recovery:
        return GradualUnits(every=2, ema=0.9)


class TestSoftFilters(RecoveryContract):
    def make(self) -> Recovery:
        return SoftFilters(every=3, mixed_precision=True)


ALL: tuple[type[UnitRecovery], ...] = (Slimming, GroupLasso, Growing, GradualUnits, SoftFilters)
SUITE = TestSlimming()


# -- networks, and what leaves them --------------------------------------------------------


class Normed(nn.Module):
    """A weight-normed kernel and a group norm, a residual, and a layer norm behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 8, 3, padding=1))
        self.norm = nn.GroupNorm(2, 8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.scale = nn.LayerNorm(6)
        self.out = nn.Linear(6, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        hidden = self.second(self.norm(self.first(inputs)).relu()).relu()
        logits: Tensor = self.out(self.scale(hidden.mean((2, 3))))
        return logits


def fresh(family: str) -> tuple[nn.Module, Tensor]:
    """Return a network with weights of its own, always the same, and eight inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if family == "vit":
            network, example = entry("vit").build()
            assert isinstance(example, Tensor)
            inputs = torch.randn(8, *example.shape[1:])
        else:
            inputs = torch.randn(8, 1, 8, 8)
            spec = ModelSpec(name="digits_cnn")
            network = Normed() if family == "normed" else build_model(spec, 10, (1, 8, 8))
    return network.requires_grad_(False).eval(), inputs


def removal_of(
    network: nn.Module, inputs: Tensor, keep_ratio: float = 0.5, *, dropped: int = 0
) -> Removal:
    groups = discover(network, inputs[:2]).groups
    scores = {"l1": score_groups(L1(), Evidence(network, groups)).scores}
    ratios = {each.name: keep_ratio for each in groups.prunable}
    blocks = frozenset(each.name for each in groups.droppable[:dropped])
    policy = groups.canonical(replace(Policy.from_keep_ratios(ratios), dropped=blocks))
    return Removal(Plan(network, groups, scores), policy, scores)


def training_of(network: nn.Module, inputs: Tensor, removal: Removal, **more: Any) -> Training:
    """Return a training on the same eight inputs at every step."""
    labels = torch.arange(len(inputs)) % 3
    options: dict[str, Any] = {
        "steps": 8,
        "seed": 3,
        "learning_rate": 0.01,
        "batch": lambda _: Batch(inputs, labels, labels),
        "loss": lambda one: cross_entropy(network(one.inputs).float(), one.labels),
        "checkpoint": MemoryCheckpoint(),
        "removal": removal,
    }
    return Training(network, **options | more)


def leaving(removal: Removal) -> Iterator[tuple[PrunableGroup, int]]:
    """Yield every unit that leaves, with its group."""
    for name, kept in removal.plan.kept_units(removal.policy).items():
        group = removal.plan.groups[name]
        yield from ((group, unit) for unit in range(group.units) if unit not in kept)


def made_of(network: nn.Module, group: PrunableGroup, unit: int) -> Iterator[tuple[Slice, Tensor]]:
    """Yield what a unit is made of, and what goes with it, entry by entry."""
    parameters = dict(network.named_parameters())
    for each in group.slices:
        is_length = not each.tensor.endswith(".original1")
        if each.role in ("out", "along") and each.tensor in parameters and is_length:
            kernel = parameters[each.tensor]
            places = [int(place) for place in each.entries[unit] if place >= 0]
            yield each, torch.cat([kernel.select(each.dim, place).flatten() for place in places])


# -- penalties -----------------------------------------------------------------------------


def scales_of(network: nn.Module, group: PrunableGroup, unit: int) -> Tensor:
    norms = {name for name, each in network.named_modules() if isinstance(each, nn.BatchNorm2d)}
    made = list(made_of(network, group, unit))
    scales = [each for place, each in made if place.tensor[: -len(".weight")] in norms]
    return torch.cat([*scales] or [each for _, each in made])


def slow_slimming(network: nn.Module, removal: Removal) -> Tensor:
    total = torch.zeros(())
    for group, unit in leaving(removal):
        total = total + 0.3 * scales_of(network, group, unit).abs().sum()
    return total


def slow_lasso(network: nn.Module, removal: Removal) -> Tensor:
    total = torch.zeros(())
    for group, unit in leaving(removal):
        whole = torch.cat([each for _, each in made_of(network, group, unit)])
        total = total + 0.3 * len(whole) ** 0.5 * (whole * whole).sum().sqrt()
    return total


def slow_squares(network: nn.Module, removal: Removal) -> Tensor:
    total = torch.zeros(())
    for group, unit in leaving(removal):
        for _, each in made_of(network, group, unit):
            total = total + 0.5 * 0.3 * (each * each).sum()
    return total


@pytest.mark.parametrize("family", ["digits", "normed", "vit"])
@pytest.mark.parametrize(
    ("recovery", "slow"),
    [
        (Slimming(strength=0.3), slow_slimming),
        (GroupLasso(strength=0.3), slow_lasso),
        (Growing(step_size=0.1, every=2, ceiling=0.3), slow_squares),
    ],
)
def test_penalties_and_their_gradients_are_those_of_the_formula(
    family: str, recovery: UnitRecovery, slow: Any
) -> None:
    network, inputs = fresh(family)
    removal = removal_of(network, inputs)
    network.requires_grad_(True)
    masking = recovery.masking(training_of(network, inputs, removal))
    found, expected = masking.penalty(5), slow(network, removal)
    assert found is not None
    torch.testing.assert_close(found, expected)
    parameters = list(network.parameters())
    fast, plain = (
        torch.autograd.grad(each, parameters, materialize_grads=True) for each in (found, expected)
    )
    torch.testing.assert_close(fast, plain)
    assert masking.penalty(6) is None  # three quarters of eight steps


def test_the_norm_of_a_unit_that_is_zero_has_no_gradient() -> None:
    network, inputs = fresh("digits")
    removal = removal_of(network, inputs)
    network.requires_grad_(True)
    masking = GroupLasso().masking(training_of(network, inputs, removal))
    masking.end()
    penalty = masking.penalty(0)
    assert penalty is not None
    assert float(penalty.detach()) == 0.0
    gradients = torch.autograd.grad(penalty, list(network.parameters()), allow_unused=True)
    assert all(each is None or not each.any() for each in gradients)


def test_penalties_shrink_what_leaves_and_spare_the_rest() -> None:
    network, inputs = fresh("digits")
    removal = removal_of(network, inputs)
    sizes: list[float] = []

    def nothing(_: Batch) -> Tensor:
        left = [
            each for group, unit in leaving(removal) for _, each in made_of(network, group, unit)
        ]
        sizes.append(sum(float(each.detach().square().sum()) for each in left))
        return 0.0 * network.get_parameter("output.bias").sum()

    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    training = training_of(network, inputs, removal, loss=nothing)
    Growing(weight_decay=0.0, clip=None).recover(training)
    assert sizes[:7] == sorted(sizes[:7], reverse=True)
    assert 0 < sizes[5] < 0.9 * sizes[0]
    assert sizes[6:] == [0.0, 0.0]
    masks = removal.masks()
    for name, each in network.named_parameters():
        assert torch.equal(each, before[name] * masks[name] if name in masks else before[name])


def test_the_growing_factor_by_hand() -> None:
    given = Growing(step_size=0.1, every=3, ceiling=0.25)
    factors = [given.factor(step, 100) for step in range(9)]
    assert factors == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.25] * 3)
    # Half of 80 steps, four rises: half of the ceiling each.
    fitted = [Growing(ceiling=2.0).factor(step, 80) for step in (0, 9, 10, 29, 30, 79)]
    assert fitted == pytest.approx([0.5, 0.5, 1.0, 1.5, 2.0, 2.0])
    assert Growing().factor(0, 6) == 1.0


# -- zeros ---------------------------------------------------------------------------------


def watched(recovery: UnitRecovery, look: Any, steps: int = 16) -> list[Any]:
    """Return what is seen of the digits network before every step, and in the end."""
    network, inputs = fresh("digits")
    removal, seen = removal_of(network, inputs), []
    plain = training_of(network, inputs, removal)

    def loss(batch: Batch) -> Tensor:
        seen.append(look(network))
        return plain.loss(batch)

    recovery.recover(training_of(network, inputs, removal, steps=steps, loss=loss))
    return [*seen, look(network)]


def zero_rows(network: nn.Module) -> tuple[int, int]:
    """Return how many rows of a kernel are zero, and how many of its shifts."""
    kernel, shift = (network.get_parameter(f"down{name}") for name in (".weight", "_bn.bias"))
    return int((kernel.flatten(1) == 0).all(1).sum()), int((shift == 0).sum())


def test_units_leave_by_the_cubic_share() -> None:
    rows = [each for each, _ in watched(GradualUnits(every=3), zero_rows)]
    expected = []
    for step in range(17):
        at = 12 if step >= 12 else step - step % 3
        share = 1.0 - (1.0 - at / 12) ** 3
        expected.append(64 - max(1, round(64 * (1.0 - 0.5 * share))))
    assert rows == expected
    assert expected[::3] == [0, 18, 28, 32, 32, 32]


def test_those_that_score_least_leave_first_and_stay_away() -> None:
    def rows(network: nn.Module) -> frozenset[int]:
        kernel = network.get_parameter("down.weight").detach()
        return frozenset(np.flatnonzero((kernel.flatten(1) == 0).all(1)).tolist())

    norms = fresh("digits")[0].get_parameter("down.weight").abs().flatten(1).sum(1)
    worst = torch.argsort(norms).tolist()
    for each in watched(GradualUnits(every=1), rows):
        assert each == frozenset(worst[: len(each)])


def test_soft_filters_grow_again_until_they_may_not() -> None:
    seen = watched(SoftFilters(every=4), zero_rows)
    kernels, shifts = [each for each, _ in seen], [each for _, each in seen]
    assert kernels[0] == 0
    assert kernels[4] == kernels[8] == 32
    assert max(kernels[each] for each in (1, 2, 3, 5, 6, 7, 9, 10, 11)) < 32
    assert kernels[12:] == [32] * 5
    # Shifts, which begin at zero here, leave with the rest alone.
    assert shifts[1:12] == [0] * 11
    assert shifts[12:] == [32] * 5


# -- what is carved ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("family", "dropped"), [("normed", 0), ("vit", 0), ("digits", 1)])
def test_the_last_steps_train_what_is_carved(
    kind: type[UnitRecovery], family: str, dropped: int
) -> None:
    """Norms leave out the units that left, and blocks that leave add nothing."""
    network, inputs = fresh(family)
    removal = removal_of(network, inputs, dropped=dropped)
    plain, steps = training_of(network, inputs, removal), iter(range(4))

    def loss(batch: Batch) -> Tensor:
        if next(steps) == 3:
            network.eval()
            with torch.no_grad():
                carved = removal.carve(network)(batch.inputs)
                torch.testing.assert_close(network(batch.inputs), carved, rtol=1e-4, atol=1e-5)
            network.train()
        return plain.loss(batch)

    recovery = kind(augmentation="none")
    recovery.recover(training_of(network, inputs, removal, loss=loss, steps=4))
    with torch.no_grad():
        masked = Plan(network, removal.plan.groups, removal.scores).mask(removal.policy)
        torch.testing.assert_close(
            masked(inputs), removal.carve(network)(inputs), rtol=1e-4, atol=1e-5
        )


def test_the_schedule_begins_once_the_units_have_left() -> None:
    network, inputs = fresh("normed")
    training = training_of(network, inputs, removal_of(network, inputs))
    recovery = Slimming(until=0.5, warmup=0.25)
    shares = [recovery.share_of_rate(training, step) for step in range(8)]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 1.0, *cosine])


def test_without_a_removal_it_is_fine_tuning() -> None:
    plain = SUITE.network()
    Finetune().recover(SUITE.training(plain))
    for kind in ALL:
        network = SUITE.network()
        kind().recover(SUITE.training(network))
        for name, each in plain.state_dict().items():
            assert torch.equal(each, network.state_dict()[name])


# -- options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("slimming", {"strength": 0}, "strength must be above zero"),
        ("slimming", {"every": 3}, "unknown option"),
        ("group_lasso", {"until": 1.5}, r"until is a share, in \(0, 1\]"),
        ("growing", {"step_size": -1}, "step_size must be above zero"),
        ("growing", {"ceiling": 0}, "ceiling must be above zero"),
        ("gradual_units", {"every": 0}, "at least 1 step"),
        ("soft_filters", {"patience": 5}, "before the units have left"),
        ("soft_filters", {"ema": 2.0}, "such as 0.999"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(PluginError, match=rule):
        plugins.create("recovery", PluginSpec(name=name, options=options))
