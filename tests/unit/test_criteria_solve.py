"""Criteria that solve: orders and errors, held against hand-made numbers and least squares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.criterion import Criterion, WeightCriterion
from autoprune.criteria import obs, thinet
from autoprune.criteria._reader import readers_of
from autoprune.criteria.l1 import L1
from autoprune.criteria.obs import Obs
from autoprune.criteria.thinet import ThiNet
from autoprune.graph.group import PrunableGroup, Slice
from autoprune.policy import Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.scoring.table import score_groups
from autoprune.surgery.plan import Plan
from autoprune.surgery.reconstruct import LayerMoments, Moments, reconstruct
from autoprune.testing import CriterionContract, WeightCriterionContract
from autoprune.tracing.discovery import discover
from tests.networks import Chain, Concat, Depthwise, Residual, built
from tests.reconstruction import LAYERS, Unsolvable, around, columns_of, images, inputs_of
from tests.removal import (
    Errors,
    check_order,
    correlated,
    paid_one_by_one,
    refitted,
    zeroed,
)


class TestThiNet(CriterionContract):
    def make(self) -> Criterion:
        return ThiNet()


class TestObs(WeightCriterionContract):
    # Rounding decides which of two weights that are worth the same leaves first.
    slack = 1e-3

    def make(self) -> WeightCriterion:
        return Obs()


class TestObsInFewSteps(TestObs):
    def make(self) -> WeightCriterion:
        return Obs(steps=2)


def evidence_of(network: nn.Module, x: Tensor) -> Evidence:
    return Evidence(network, discover(network, x[:2]).groups, Samples(x))


@torch.no_grad()
def passed_on(x: list[list[float]], weights: list[float]) -> Evidence:
    """A layer that hands four inputs on, and one that reads them with these weights."""
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
    network[0].weight.copy_(torch.eye(4))
    network[2].weight.copy_(torch.tensor([weights]))
    return evidence_of(network.eval().requires_grad_(False), torch.tensor(x).T)


def test_thinet_by_hand() -> None:
    # What the units add in four samples: (1,1,0,0), (-1,-2,0,0), (0,0,1,0), (0,0,0,3). The mean
    # square of the sum (0,-1,1,3) is 11/4. Alone they cost 2/4, 5/4, 1/4 and 9/4: unit 2 leaves
    # first, then unit 0 (3/4 in all). Without unit 1 as well (0,-1,1,0) is missing: 2/4, less
    # than before, and unit 3 takes all the rest.
    rows = [[1.0, 1, 0, 0], [1, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]
    found = ThiNet().scores(passed_on(rows, [1.0, -1.0, 0.5, 3.0]))["0"]
    np.testing.assert_allclose(found, np.array([3, 3, 1, 11]) / 11, rtol=1e-6)
    assert found[1] > found[0]
    # Where one unit takes back what the other adds, nothing is missing without both; the one
    # that leaves later must still score higher.
    rows = [[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]
    found = ThiNet().scores(passed_on(rows, [1.0, -1.0, 1.0, 3.0]))["0"]
    np.testing.assert_allclose(found, np.array([2, 2, 4, 13]) / 13, rtol=1e-6)
    assert list(np.argsort(found)) == [0, 1, 2, 3]


def test_strips_of_pairs_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = built(Chain)
    evidence = evidence_of(network, images(30))
    whole = ThiNet().scores(evidence)
    monkeypatch.setattr(thinet, "_ENTRIES", 100)
    for name, each in ThiNet().scores(evidence).items():
        np.testing.assert_allclose(each, whole[name], rtol=1e-9)


def test_obs_by_hand() -> None:
    # G = [[1,1],[1,2]] of units 0 and 1, then 1 and 4; their mean is 2, so λ = 0.02. Weights
    # (1,-1,1,1) compute a mean square of 1-2+2+1+4 = 6. Alone the units cost
    # 1.02-1/2.02 = 0.525, 2.02-1/1.02 = 1.040, 1.02 and 4.02: unit 0 leaves. Then -1 becomes
    # -1+1/2.02, and unit 1 costs 2.02 times its square, 0.515: less than unit 2.
    rows = [[2.0, 0, 0, 0], [2, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 4]]
    evidence = passed_on(rows, [1.0, -1.0, 1.0, 1.0])
    first = 1.02 - 1 / 2.02
    second = first + 2.02 * (1 / 2.02 - 1) ** 2
    # All that the first two add is missing in the end, and the ridge: 1.02 - 2 + 2.02.
    assert second == pytest.approx(1.04)
    expected = np.array([first, second, second + 1.02, second + 1.02 + 4.02]) / 6
    np.testing.assert_allclose(Obs().scores(evidence)["0"], expected, rtol=1e-6)
    # Single weights are worth the most that was paid until they left.
    found = Obs().saliencies(evidence)
    paid = np.array([[first, first, 1.02, 4.02]]) / 2
    np.testing.assert_allclose(found["2.weight"], paid, rtol=1e-6)
    # The first layer reads the same, and no group; its kernel is the identity, so all zeros
    # have left when the only other weight of a row does.
    alone = np.diag([1.02, 2.02, 1.02, 4.02]) / 2
    np.testing.assert_allclose(found["0.weight"], alone, rtol=1e-6, atol=1e-12)


def test_columns_of_units_that_have_unequal_shares() -> None:
    # Input 3 is nobody's; the kernel has two elements, so the group has columns 0-5 of 9.
    columns = np.array([[0, 1], [2, -1]])
    part = Slice("a.weight", 1, 4, columns, "in")
    other = Slice("b.weight", 1, 2, np.array([[0], [1]]), "in")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 9, generator=generator).double()
    weight = torch.randn(9, 3, generator=generator).double()
    layer = LayerMoments(x.T @ x / 50, weight, kernel=2, has_bias=True)
    group = PrunableGroup("g", 2, (part, other))
    (reader,) = readers_of(group, Moments({"a": layer}, ()))
    assert reader.columns.tolist() == [[0, 1, 2, 3], [4, 5, -1, -1]]
    energy = float((x @ weight).square().sum(dim=1).mean())
    scaled = torch.zeros(2, 4, 3).double()
    scaled[0], scaled[1, :2] = weight[:4], weight[4:6]
    torch.testing.assert_close(reader.weight, scaled / energy**0.5)
    evidence = _Known(group, Moments({"a": layer}, ()))
    alone = [(x[:, own] @ weight[own]).square().sum(dim=1).mean() for own in ([0, 1, 2, 3], [4, 5])]
    both = (x[:, :6] @ weight[:6]).square().sum(dim=1).mean()
    worst = max(float(both), *map(float, alone))
    found = ThiNet().scores(evidence)["g"] * energy
    assert found.min() == pytest.approx(float(min(alone)))
    assert found.max() == pytest.approx(worst)
    ridge = 0.01 * layer.gram.diagonal()[:8].mean()
    damped = layer.gram + torch.diag(torch.tensor([*[ridge] * 8, 0.0]).double())
    for steps in (1, 2):
        found = Obs(steps=steps).scores(evidence)["g"] * energy
        costs = [_schur(damped, weight, own) for own in ([0, 1, 2, 3], [4, 5], [0, 1, 2, 3, 4, 5])]
        assert found.min() == pytest.approx(min(costs))
        assert found.max() == pytest.approx(costs[2])


class _Known(Evidence):
    """Moments that are given, of one group."""

    def __init__(self, group: PrunableGroup, moments: Moments) -> None:
        network, x = built(Chain)
        super().__init__(network, discover(network, x).groups)
        self.groups.prunable = (group,)
        self.moments = moments


def _schur(damped: Tensor, weight: Tensor, own: list[int]) -> float:
    block = damped.inverse()[own][:, own]
    return float((weight[own] * torch.linalg.solve(block, weight[own])).sum())


TWINS = pytest.mark.parametrize(
    ("make", "twin"), [(ThiNet, zeroed), (Obs, refitted), (lambda: Obs(steps=1), refitted)]
)


@TWINS
@pytest.mark.parametrize("name", ["linear", "linear, no bias", "3x3, stride, padding", "sequence"])
def test_orders_and_errors_of_a_layer_are_those_of_a_slow_twin(
    name: str, make: Callable[[], Criterion], twin: Callable[..., Errors]
) -> None:
    network, x = around(LAYERS[name]())
    scores = make().scores(evidence_of(network, x))["0"]
    check_order(scores, twin(network[2], network[:2](x), np.arange(8)[:, None]))


@TWINS
@pytest.mark.parametrize(
    ("kind", "group"),
    [(Residual, "stem"), (Concat, "left"), (Concat, "right"), (Chain, "b")],
    ids=["two readers", "beside another group", "at an offset", "after a flatten"],
)
def test_orders_and_errors_of_a_network_are_those_of_a_slow_twin(
    kind: type[nn.Module], group: str, make: Callable[[], Criterion], twin: Callable[..., Errors]
) -> None:
    network, x = built(kind)
    # Of six by six pixels all positions are seen; what is flattened has eight by eight.
    x = images(30) if kind is Chain else images(30)[..., :6, :6]
    evidence = evidence_of(network, x)
    slices = [each for each in evidence.groups[group].slices if each.role == "in"]
    readers = [each.module for each in slices]
    assert len(readers) == (2 if group == "stem" else 1)
    with inputs_of(network, readers) as read:
        network(x)
    errors = [
        twin(network.get_submodule(each.module), read[each.module][0], each.entries)
        for each in slices
    ]
    check_order(make().scores(evidence)[group], lambda units: sum(error(units) for error in errors))


def test_units_that_leave_together_leave_nearly_as_if_one_by_one() -> None:
    network, x = correlated(32)
    evidence = evidence_of(network, x)
    single, few = (Obs(steps=steps).scores(evidence)["0"] for steps in (128, 8))
    assert (single != few).any()
    ranks = np.argsort(np.argsort([single, few]))
    assert np.corrcoef(ranks)[0, 1] > 0.97
    # Whatever the order, what is said of it is true.
    error = refitted(network[2], network[:2](x), np.arange(32)[:, None])
    order = np.argsort(few)
    expected = [error(order[: step + 1]) for step in range(32)]
    np.testing.assert_allclose(few[order], expected, rtol=1e-3)


@torch.no_grad()
def test_of_two_equal_units_one_stays() -> None:
    network, x = correlated(12)
    for copied in (8, 9, 10, 11):
        network[0].weight[copied] = network[0].weight[copied - 8]
        network[0].bias[copied] = network[0].bias[copied - 8]
    for steps in (3, 12):
        scores = Obs(steps=steps).scores(evidence_of(network, x))["0"]
        first = set(np.argsort(scores)[:4].tolist())
        assert not any({unit, unit + 8} <= first for unit in range(4))


def output_error(network: nn.Module, evidence: Evidence, criterion: Criterion) -> float:
    """Relative error on inputs not seen of half the network, its kernels solved anew."""
    table = score_groups(criterion, evidence)
    plan = Plan(network, evidence.groups, {"l1": table.scores})
    policy = Policy.from_keep_ratios({"0": 0.5})
    carved = plan.carve(policy)
    reconstruct(carved, plan, policy, evidence.moments)
    fresh = torch.randn(500, 6, generator=torch.Generator().manual_seed(20))
    dense = network(fresh)
    return float((carved(fresh) - dense).square().sum() / dense.square().sum())


def test_networks_by_obs_are_reconstructed_better_than_by_magnitude() -> None:
    network, x = correlated(24)
    evidence = evidence_of(network, x)
    l1, thinet, corrected = (
        output_error(network, evidence, each) for each in (L1(), ThiNet(), Obs())
    )
    assert corrected < 0.5 * l1
    assert corrected < thinet


@torch.no_grad()
def test_what_a_bias_can_make_up_for_costs_nothing_to_correct() -> None:
    network, x = correlated(6)
    network[0].weight[2] = 0.0
    network[0].bias[2] = 5.0
    evidence = evidence_of(network, x)
    corrected, uncorrected = Obs().scores(evidence)["0"], ThiNet().scores(evidence)["0"]
    assert corrected.argmin() == 2
    assert corrected[2] < 0.02 * uncorrected[2]


@torch.no_grad()
def test_dead_units_leave_first() -> None:
    network, x = correlated(8)
    network[0].weight[[1, 6]] = 0.0
    network[0].bias[[1, 6]] = -1.0
    evidence = evidence_of(network, x)
    uncorrected = ThiNet().scores(evidence)["0"]
    assert set(np.flatnonzero(uncorrected == 0.0)) == {1, 6}
    # Which of them goes first is the table's to say: the larger norm stays longer.
    network[2].weight[:, 1] = 100.0
    network[0].bias[1] = -2.0
    table = score_groups(ThiNet(), evidence_of(network, x)).scores["0"]
    assert list(np.argsort(table)[:2]) == [6, 1]
    # The ridge charges for weights on what no sample showed.
    corrected = Obs().scores(evidence)["0"]
    assert corrected[[1, 6]].max() < 0.02
    assert set(np.argsort(corrected)[:2]) == {1, 6}
    network[0].bias.fill_(-1.0)
    network[0].weight.zero_()
    dead = evidence_of(network, x)
    for criterion in (ThiNet(), Obs()):
        assert score_groups(criterion, dead).fallen_back == ("0",)
    assert np.isfinite(Obs().saliencies(dead)["2.weight"]).all()
    network[2].bias.zero_()
    assert ThiNet().scores(evidence_of(network, x)) == {}
    assert Obs().scores(evidence_of(network, x)) == {}


@pytest.mark.parametrize("make", [ThiNet, Obs])
def test_groups_whose_readers_are_unknown_are_left_out(make: Callable[[], Criterion]) -> None:
    network, _ = built(Unsolvable)
    assert list(make().scores(evidence_of(network, images(8)))) == ["one"]
    network, x = built(Chain)
    broken = evidence_of(network, torch.full_like(x, float("nan")))
    assert make().scores(broken) == {}
    endless = torch.full((2, 2), float("inf")).double()
    layer = LayerMoments(endless, torch.ones(2, 1).double(), kernel=1, has_bias=False)
    group = PrunableGroup("g", 2, (Slice("a.weight", 1, 2, np.array([[0], [1]]), "in"),))
    assert make().scores(_Known(group, Moments({"a": layer}, ()))) == {}


def by_size_alone(evidence: Evidence, kernel: str) -> np.ndarray:
    """Half of what weights add to outputs if no input told anything of another."""
    weight, norm = evidence.weights[kernel], evidence.input_norms[kernel]
    return weight**2 * norm.reshape(1, -1, *(1 for _ in weight.shape[2:])) ** 2 / 2


def test_layers_that_are_too_large_say_nothing_of_units(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = built(Chain)
    x = images(8)
    # Inputs: a 27, b 55, hidden 65, out 11.
    for largest, groups, kernels in (
        (65, ["a", "b", "hidden"], ["a", "b", "hidden", "out"]),
        (64, ["a", "hidden"], ["a", "b", "out"]),
        (10, [], []),
    ):
        monkeypatch.setattr(obs, "_LARGEST", largest)
        evidence = evidence_of(network, x)
        assert list(Obs().scores(evidence)) == groups
        found = Obs().saliencies(evidence)
        assert list(found) == [f"{each}.weight" for each in ("a", "b", "hidden", "out")]
        for kernel, each in found.items():
            is_alone = np.allclose(each, by_size_alone(evidence, kernel))
            assert is_alone == (kernel.removesuffix(".weight") not in kernels)


def test_weights_of_all_plain_layers_are_judged() -> None:
    network, _ = built(Depthwise)
    evidence = evidence_of(network, images(8))
    assert set(evidence.moments.layers) == {"project", "out"}
    found = Obs().saliencies(evidence)
    assert list(found) == [f"{each}.weight" for each in ("expand", "depth", "project", "out")]
    network, x = built(Residual)
    x = images(20)[..., :6, :6]
    evidence = evidence_of(network, x)
    with inputs_of(network, ["stem"]) as read:
        network(x)
    rows = np.c_[columns_of(network.stem, read["stem"][0]), np.ones(20 * 36)]
    ridge = np.diag([0.01 * (rows[:, :-1] ** 2).mean()] * 27 + [0.0])
    inverse = np.linalg.inv(rows.T @ rows / len(rows) + ridge)
    weight = network.stem.weight.flatten(1).numpy()
    expected = paid_one_by_one(weight, inverse[:27, :27]) / 2
    saliencies = Obs().saliencies(evidence)["stem.weight"]
    np.testing.assert_allclose(saliencies.reshape(expected.shape), expected, rtol=1e-4)


class Encoder(nn.Module):
    """A layer of a transformer between two linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.embedding(x)).mean(1))


def test_a_transformer_is_judged_by_what_its_linear_layers_read() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Encoder().eval().requires_grad_(False)
    x = torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(1))
    evidence = evidence_of(network, x)
    with inputs_of(network, ["layer.linear2"]) as read:
        network(x)
    layer, inputs = network.layer.linear2, read["layer.linear2"][0]
    for criterion, twin in ((ThiNet(), zeroed), (Obs(), refitted)):
        scores = criterion.scores(evidence)
        assert set(scores) == {"embedding", "layer.linear1"}
        check_order(scores["layer.linear1"], twin(layer, inputs, np.arange(16)[:, None]))
    # What attention reads inside of itself is watched, but solved with nowhere.
    found = Obs().saliencies(evidence)
    assert list(found) == list(evidence.kernels)
    for name in ("in_proj_weight", "out_proj.weight"):
        kernel = f"layer.self_attn.{name}"
        np.testing.assert_allclose(found[kernel], by_size_alone(evidence, kernel), rtol=1e-5)


@pytest.mark.parametrize("option", ["steps", "operations"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 1, given 0"):
        Obs(**{option: 0})  # type: ignore[arg-type]
