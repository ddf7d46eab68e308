"""Criteria that look at weights alone: the contract, scores computed by hand, slow twins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune import plugins
from autoprune.contracts.criterion import Criterion, WeightCriterion
from autoprune.criteria import geometric_median
from autoprune.criteria.bn_scale import BnScale
from autoprune.criteria.geometric_median import GeometricMedian
from autoprune.criteria.l2 import L2
from autoprune.criteria.lamp import Lamp
from autoprune.criteria.lookahead import Lookahead
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import score_groups
from autoprune.testing import CriterionContract, WeightCriterionContract
from tests.weighing import Residual, lively, put, seen, transformer

ALL: tuple[type[Criterion], ...] = (BnScale, GeometricMedian, Lamp, Lookahead)


class TestBnScale(CriterionContract):
    def make(self) -> Criterion:
        return BnScale()


class TestGeometricMedian(CriterionContract):
    def make(self) -> Criterion:
        return GeometricMedian()


class TestLamp(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return Lamp()


@pytest.mark.parametrize("criterion", ALL)
def test_they_answer_to_their_file_names(criterion: type[Criterion]) -> None:
    name = criterion.__module__.rpartition(".")[2]
    assert plugins.load("criterion", name) is criterion
    assert name in plugins.names("criterion")


@pytest.mark.parametrize("criterion", [GeometricMedian, Lamp, Lookahead])
def test_a_transformer_is_scored_whole(criterion: type[Criterion]) -> None:
    evidence = seen(transformer(), 5, 6)
    table = score_groups(criterion(), evidence)
    assert set(criterion().scores(evidence)) == {x.name for x in evidence.groups.prunable}
    # Two heads are as far from one another.
    alike = ("1.self_attn:heads",) if criterion is GeometricMedian else ()
    assert table.fallen_back == alike


# --- bn_scale


def test_bn_scale_is_the_size_of_gamma() -> None:
    norm = nn.BatchNorm2d(4)
    put(norm.weight, [-2.0, 0.5, 0.0, 1.0])
    model = nn.Sequential(nn.Conv2d(1, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())
    found = BnScale().scores(seen(model, 1, 2, 2))
    np.testing.assert_array_equal(found["0"], [2.0, 0.5, 0.0, 1.0])


def test_bn_scale_is_the_mean_of_the_norms_of_a_stage() -> None:
    first, last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    put(first.weight, [1.0, -1.0, 4.0, 0.0])
    put(last.weight, [3.0, 0.0, -2.0, 0.0])
    found = BnScale().scores(seen(Residual(first, last), 3, 4, 4))
    # (1 + 3) / 2, (1 + 0) / 2, (4 + 2) / 2, 0; the kernel between has no norm
    assert found.keys() == {"stem"}
    np.testing.assert_array_equal(found["stem"], [2.0, 0.5, 3.0, 0.0])


def test_bn_scale_counts_batch_norms_alone() -> None:
    first, last = nn.BatchNorm2d(4), nn.GroupNorm(1, 4)
    put(first.weight, [1.0, 2.0, 3.0, 4.0])
    put(last.weight, [9.0, 5.0, 1.0, 7.0])
    found = BnScale().scores(seen(Residual(first, last), 3, 4, 4))
    np.testing.assert_array_equal(found["stem"], [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 4), nn.BatchNorm2d(4, affine=False)])
def test_bn_scale_leaves_out_groups_without_scales(norm: nn.Module) -> None:
    evidence = seen(Residual(norm, nn.Identity()), 3, 4, 4)
    assert "batch_norm" not in evidence.has
    assert BnScale().scores(evidence) == {}
    assert BnScale().scores(seen(transformer(), 5, 6)) == {}


def test_bn_scale_is_the_mean_of_the_channels_of_a_unit() -> None:
    norm = nn.BatchNorm2d(4)
    put(norm.weight, [1.0, 2.0, 3.0, 5.0])
    grouped = nn.Conv2d(4, 4, 1, groups=2)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), norm, grouped, nn.Flatten(), nn.Linear(16, 2))
    found = BnScale().scores(seen(model, 1, 2, 2))
    # Channels 0, 1 | 2, 3 are blocks, and 0, 2 | 1, 3 are places within them.
    np.testing.assert_array_equal(found["0:blocks"], [1.5, 4.0])
    np.testing.assert_array_equal(found["0"], [2.0, 3.5])


# --- geometric_median

POINTS = [[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [3.0, 0.0]]
# Distances 5, 10, 3 | 5, 5, 4 | 10, 5, √73 | 3, 4, √73 by hand.
SUMS = np.array([18.0, 14.0, 15.0 + 73.0**0.5, 7.0 + 73.0**0.5])


def test_geometric_median_is_the_sum_of_distances() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    put(model[0].weight, POINTS)
    found = GeometricMedian().scores(seen(model, 2, 2, 2))
    np.testing.assert_allclose(found["0"], SUMS / SUMS.mean(), rtol=1e-6)
    # The filter in the middle leaves first, not the smallest one.
    assert int(found["0"].argmin()) == 1


def test_geometric_median_of_a_linear_layer_after_flatten() -> None:
    hidden = nn.Linear(8, 4, bias=False)
    model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(4, 3))
    put(hidden.weight, [[0.0, *point, *[1.0] * 5] for point in POINTS])
    found = GeometricMedian().scores(seen(model, 2, 2, 2))
    np.testing.assert_allclose(found["1"], SUMS / SUMS.mean(), rtol=1e-6)


def test_geometric_median_of_a_stage_is_voted() -> None:
    model = lively(Residual(nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    found = GeometricMedian().scores(seen(model, 3, 4, 4))
    votes = [slow_distances(each.weight) for each in (model.stem, model.two)]
    expected = np.mean([each / each.mean() for each in votes], axis=0)
    np.testing.assert_allclose(found["stem"], expected, rtol=1e-5)


@pytest.mark.parametrize("block", [3, 4096])
@pytest.mark.parametrize(("offset", "size"), [(0.0, 1.0), (1e3, 1.0), (0.0, 1e-30), (0.0, 1e30)])
def test_geometric_median_agrees_with_its_slow_twin(
    offset: float, size: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometric_median, "_BLOCK", block)
    model = lively(nn.Sequential(nn.Conv2d(4, 7, 3), nn.Flatten(), nn.Linear(7, 3)))
    with torch.no_grad():
        # A common offset makes the squares of filters large against their distances.
        model[0].weight.mul_(size).add_(offset)
        model[0].weight[2].copy_(model[0].weight[5])
    found = GeometricMedian().scores(seen(model, 4, 3, 3))["0"]
    slow = slow_distances(model[0].weight)
    np.testing.assert_allclose(found, slow / slow.mean(), rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_geometric_median_tells_nothing_of_equal_filters(size: float) -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 7, 3), nn.Flatten(), nn.Linear(7, 3)))
    with torch.no_grad():
        model[0].weight.copy_(size * model[0].weight[:1].clone())
    evidence = seen(model, 3, 3, 3)
    np.testing.assert_array_equal(GeometricMedian().scores(evidence)["0"], np.zeros(7))
    assert score_groups(GeometricMedian(), evidence).fallen_back == ("0",)


def test_geometric_median_tells_nothing_of_two_units() -> None:
    for seed in range(5):
        model = lively(nn.Sequential(nn.Linear(9, 2), nn.ReLU(), nn.Linear(2, 3)), seed)
        assert score_groups(GeometricMedian(), seen(model, 9)).fallen_back == ("0",)


def slow_distances(kernel: Tensor) -> np.ndarray:
    filters = kernel.detach().double().flatten(1).numpy()
    return np.array([sum(float(np.linalg.norm(a - b)) for b in filters) for a in filters])


# --- lamp


def four(values: Sequence[float]) -> Evidence:
    """Return evidence of a first layer of four channels with one weight each."""
    model = lively(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))
    put(model[0].weight, values)
    return seen(model, 1, 2, 2)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # Squares 9, 1, 4, 4: of the 4s both are left, and the 9; of the 1 all 18.
        ((3.0, -1.0, 2.0, -2.0), (1.0, 1 / 18, 4 / 17, 4 / 17)),
        ((0.0, 2.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)),  # dead ones are worth nothing
        ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_lamp_is_the_share_in_what_is_left(
    weights: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    evidence = four(weights)
    np.testing.assert_allclose(Lamp().scores(evidence)["0"], expected, rtol=1e-6)
    given = Lamp().saliencies(evidence)["0.weight"]
    np.testing.assert_allclose(given.reshape(-1), expected, rtol=1e-6)


def test_lamp_agrees_with_its_slow_twin() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6, 3)))
    with torch.no_grad():
        model[0].weight.copy_((model[0].weight * 8).round() / 8)  # many are equal
    evidence = seen(model, 3, 3, 3)
    squares = evidence.weights["0.weight"].astype(np.float64).reshape(-1) ** 2
    slow = np.array([one / squares[squares >= one].sum() for one in squares])
    assert len(np.unique(squares)) < len(squares) / 4
    found = Lamp().saliencies(evidence)["0.weight"]
    np.testing.assert_allclose(found.reshape(-1), slow, rtol=1e-6)


def test_lamp_ranks_units_as_l2_and_gives_the_best_of_every_group_one() -> None:
    evidence = seen(lively(Residual(nn.BatchNorm2d(4), nn.BatchNorm2d(4))), 3, 4, 4)
    found, norms = Lamp().scores(evidence), L2().scores(evidence)
    assert found.keys() == norms.keys() == {"stem", "one"}
    for name, each in found.items():
        assert each.max() == 1.0
        np.testing.assert_array_equal(np.argsort(each), np.argsort(norms[name]))
        squares = norms[name] ** 2
        slow = [one / squares[squares >= one].sum() for one in squares]
        np.testing.assert_allclose(each, slow, rtol=1e-9)


def test_lamp_finds_units_equal_that_rounding_tells_apart() -> None:
    model = lively(nn.Sequential(nn.Linear(200, 4), nn.ReLU(), nn.Linear(4, 3)))
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(200, generator=generator).mul(3.0).exp()
    with torch.no_grad():
        for unit in range(4):
            model[0].weight[unit] = values[torch.randperm(200, generator=generator)]
    evidence = seen(model, 200)
    assert len(np.unique(L2().scores(evidence)["0"])) > 1
    np.testing.assert_allclose(Lamp().scores(evidence)["0"], np.full(4, 0.25), rtol=1e-9)
