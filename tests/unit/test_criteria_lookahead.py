"""The criterion `lookahead`: the contract, scores computed by hand, a slow twin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from autoprune.contracts.criterion import WeightCriterion
from autoprune.criteria.lookahead import Lookahead
from autoprune.graph.group import GroupTable, PrunableGroup, Slice
from autoprune.scoring.evidence import Evidence
from autoprune.testing import WeightCriterionContract
from autoprune.tracing.discovery import discover
from tests.weighing import Residual, lively, put, seen, transformer


class TestLookahead(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return Lookahead()


class Forked(nn.Module):
    """One kernel whose output two norms scale, each for a reader of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1, bias=False)
        self.left_norm, self.left = nn.BatchNorm2d(4, eps=0.0), nn.Conv2d(4, 3, 1)
        self.right_norm, self.right = nn.BatchNorm2d(4, eps=0.0), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.left(self.left_norm(x)), self.right(self.right_norm(x))
        return (left * right).mean((2, 3))


class Scaled(nn.Module):
    """Channels that come of a multiplication with a vector, read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(x * self.scale).mean(1))


def row(kernel: Tensor) -> np.ndarray:
    """Return the squared norms of what makes each output channel."""
    return kernel.detach().double().square().flatten(1).sum(1).numpy()


def column(kernel: Tensor) -> np.ndarray:
    """Return the squared norms of what reads each input channel."""
    return row(kernel.transpose(0, 1))


def times(kernel: Tensor, made: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Return |w| times the roots of squares for its output and for its input channels."""
    factor = np.sqrt(np.outer(made, read))
    sizes: np.ndarray = np.abs(kernel.detach().double().numpy())
    return sizes * factor.reshape(factor.shape + (1,) * (kernel.dim() - 2))


def assert_near(found: np.ndarray, expected: Sequence[float]) -> None:
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-6)


def by_hand() -> Evidence:
    norm = nn.BatchNorm2d(4, eps=0.0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(8, 1)
    )
    put(model[0].weight, [1.0, -2.0, 3.0, 0.5])
    put(norm.weight, [1.0, -1.0, 2.0, 4.0])
    assert isinstance(norm.running_var, Tensor)
    put(norm.running_var, [1.0, 4.0, 1.0, 16.0])
    put(model[3].weight, [[3.0, 0.0, 1.0, 6.0], [-4.0, 1.0, 0.0, 8.0]])
    put(model[5].weight, [1.0, -2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    return seen(model, 1, 2, 2)


def test_lookahead_multiplies_with_rows_before_and_columns_after() -> None:
    found = Lookahead().saliencies(by_hand())
    # a = |γ|/σ = 1, ½, 2, 1, so rows of the first kernel are 1, 1, 6, ½; columns of the second
    # are 5, 1, 1, 10; four columns of the last read each of its channels, with norms 3 and 2.
    assert_near(found["0.weight"], [1 * 5, 1 * 1, 6 * 1, 0.5 * 10])
    assert_near(
        found["3.weight"],
        [3 * 1 * 3, 0, 1 * 6 * 3, 6 * 0.5 * 3, 4 * 1 * 2, 1 * 1 * 2, 0, 8 * 0.5 * 2],
    )
    # Rows of the second kernel: √(9 + 0 + 1 + 36) and √(16 + 1 + 0 + 64).
    first, second = 46.0**0.5, 9.0
    assert_near(found["5.weight"], [first, 2 * first, 2 * first, 0, 0, 0, 0, 2 * second])


def test_lookahead_scores_are_sums_over_what_makes_a_unit() -> None:
    found = Lookahead().scores(by_hand())
    assert found.keys() == {"0", "3"}
    assert_near(found["0"], [5, 1, 6, 5])
    assert_near(found["3"], [9 + 0 + 18 + 9, 8 + 2 + 0 + 8])


def test_lookahead_finds_dead_units_worthless() -> None:
    evidence = by_hand()
    with torch.no_grad():
        evidence.model[1].weight[0] = 0.0  # scaled to nothing
        evidence.model[3].weight[:, 1] = 0.0  # read by nobody
        evidence.model[0].weight[2] = 0.0  # made by nothing
    scores = Lookahead().scores(evidence)["0"]
    np.testing.assert_array_equal(scores[:3], np.zeros(3))
    assert scores[3] > 0.0


def test_lookahead_sees_batch_norms_as_folded_into_the_kernels_before_them() -> None:
    first, norm, second = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)
    tail = nn.Sequential(nn.ReLU(), second, nn.Flatten(), nn.Linear(3 * 16, 4))
    model = lively(nn.Sequential(first, norm, tail)).eval()
    folded = nn.Sequential(fuse_conv_bn_eval(first, norm), nn.Identity(), tail)
    plain, fused = (Lookahead().saliencies(seen(each, 2, 4, 4)) for each in (model, folded))
    assert plain.keys() == fused.keys() == {"0.weight", "2.1.weight", "2.3.weight"}
    for name, each in plain.items():
        np.testing.assert_allclose(each, fused[name], rtol=1e-5)


def test_lookahead_adds_the_squares_of_several_neighbours() -> None:
    first, last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    model = lively(Residual(first, last))
    found = Lookahead().saliencies(seen(model, 3, 4, 4))
    stem, one, two, out = (x.weight for x in (model.stem, model.one, model.two, model.out))
    # Each kernel of the stage has the factors of its own norm.
    stem_factor, two_factor = (
        (x.weight.square() / (x.running_var + x.eps)).detach().double().numpy()
        for x in (first, last)
    )
    rows = stem_factor * row(stem) + two_factor * row(two)
    columns = column(one) + column(out)
    for name, expected in (
        ("stem.weight", times(stem, stem_factor * columns, np.ones(3))),
        ("one.weight", times(one, column(two), rows)),
        ("two.weight", times(two, two_factor * columns, row(one))),
        ("out.weight", times(out, np.ones(3), rows)),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_lookahead_takes_the_mean_square_of_norms_side_by_side() -> None:
    model = Forked()
    put(model.stem.weight, [1.0, 1.0, 2.0, 1.0])
    put(model.left_norm.weight, [1.0, 3.0, 1.0, 0.0])
    put(model.right_norm.weight, [7.0, 3.0, 1.0, 0.0])
    put(model.left.weight, [[3.0, 0.0, 0.0, 1.0], [0.0] * 4, [0.0] * 4])
    put(model.right.weight, [[4.0, 0.0, 2.0, 1.0], [0.0, 2.0, 0.0, 1.0], [0.0] * 4])
    found = Lookahead().saliencies(seen(model, 1, 2, 2))
    # Squared factors (1 + 49) / 2, 9, 1, 0; columns 3 and 4, 0 and 2, 0 and 2, any.
    assert_near(found["stem.weight"], [5 * 5, 3 * 2, 2 * 1 * 2, 0])


def test_lookahead_takes_depthwise_kernels_for_makers_and_readers() -> None:
    model = lively(
        nn.Sequential(
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.Conv2d(4, 2, 1),
            nn.Flatten(),
        )
    )
    found = Lookahead().saliencies(seen(model, 3, 2, 2))
    expand, depth, project = (model[each].weight for each in (0, 1, 3))
    between = column(project)
    for name, expected in (
        ("0.weight", times(expand, row(depth) + between, np.ones(3))),
        ("1.weight", times(depth, row(expand) * between, np.ones(1))),
        ("3.weight", times(project, np.ones(2), row(expand) + row(depth))),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_lookahead_of_convolutions_in_groups() -> None:
    norm, grouped = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=2)
    first, last = nn.Conv2d(1, 4, 1), nn.Linear(16, 2)
    model = lively(nn.Sequential(first, norm, grouped, nn.Flatten(), last))
    found = Lookahead().saliencies(seen(model, 1, 2, 2))
    # Units are blocks (0, 1 | 2, 3) and places within them (0, 2 | 1, 3), two channels each. Of
    # 16 columns at the end the first eight read the first block.
    block, place = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert isinstance(norm.running_var, Tensor)
    scale = (norm.weight.square() / (norm.running_var + norm.eps)).detach().double().numpy()
    ends = column(last.weight).reshape(4, 4).sum(axis=1)
    by_block, by_place = ends.reshape(2, 2).sum(axis=1) / 2, ends.reshape(2, 2).sum(axis=0) / 2
    rows = scale * row(first.weight)
    after = scale * (by_block[block] + column(grouped.weight)[place] / 2)
    for name, expected in (
        ("0.weight", times(first.weight, after, np.ones(1))),
        (
            "2.weight",
            times(
                grouped.weight,
                (by_block[block] + by_place[place]) / 2,
                rows.reshape(2, 2).mean(axis=0),
            ),
        ),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_lookahead_of_images_in_grey_has_nothing_before_the_first_layer() -> None:
    # Its kernel is as narrow as a depthwise one, but reads no units.
    model = lively(Residual(nn.Identity(), nn.Identity(), inputs=1))
    found = Lookahead().saliencies(seen(model, 1, 4, 4))
    stem, one, two, out = (x.weight for x in (model.stem, model.one, model.two, model.out))
    columns = column(one) + column(out)
    for name, expected in (
        ("stem.weight", times(stem, columns, np.ones(1))),
        ("two.weight", times(two, columns, row(one))),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_lookahead_of_units_that_no_kernel_makes() -> None:
    model = lively(Scaled())
    evidence = seen(model, 5, 1)
    assert [each.name for each in evidence.groups.prunable] == ["scale"]
    found = Lookahead().saliencies(evidence)
    np.testing.assert_array_equal(found["out.weight"], np.abs(evidence.weights["out.weight"]))


def test_lookahead_uses_frozen_groups_as_neighbours() -> None:
    model = lively(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    evidence = seen(model, 6)
    free = Lookahead().saliencies(evidence)
    frozen = [x.frozen("a test wants it") for x in evidence.groups.groups]
    evidence.groups = GroupTable(frozen, (), evidence.groups.layers)
    assert not evidence.groups.prunable
    expected = times(model[0].weight, column(model[2].weight), np.ones(6))
    for found in (free, Lookahead().saliencies(evidence)):
        np.testing.assert_allclose(found["0.weight"], expected, rtol=1e-5)


def test_lookahead_of_units_with_unequal_numbers_of_channels() -> None:
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False)).eval()
    put(model[0].weight, [1.0, 7.0, 2.0])
    put(model[1].weight, [3.0, 4.0, 6.0])
    # The first two channels are one unit; only frozen groups are so uneven.
    entries = np.array([[0, 1], [2, -1]])
    made = Slice("0.weight", 0, 3, entries, "out")
    group = PrunableGroup("0", 2, (made, Slice("1.weight", 1, 3, entries, "in")), "it is uneven")
    layers = discover(model, torch.ones(2, 1)).groups.layers
    found = Lookahead().saliencies(Evidence(model, GroupTable([group], (), layers)))
    # Columns 3 and 4 are shared by two channels; rows 1 and 7 have the mean square 25.
    shared = 12.5**0.5
    assert_near(found["0.weight"], [1 * shared, 7 * shared, 2 * 6])
    assert_near(found["1.weight"], [3 * 5, 4 * 5, 6 * 2])


def test_lookahead_without_statistics_takes_the_scales_alone() -> None:
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    model = lively(nn.Sequential(nn.Linear(6, 4), norm, nn.ReLU(), nn.Linear(4, 3)))
    found = Lookahead().saliencies(seen(model, 6))
    scale = norm.weight.detach().double().square().numpy()
    expected = times(model[0].weight, scale * column(model[3].weight), np.ones(6))
    np.testing.assert_allclose(found["0.weight"], expected, rtol=1e-5)


def test_lookahead_shares_what_reads_a_head_among_its_channels() -> None:
    model = transformer()
    found = Lookahead().saliencies(seen(model, 5, 6))
    layer = model[1]
    mixed, joined = layer.self_attn.in_proj_weight, layer.self_attn.out_proj.weight
    before = row(model[0].weight) + row(joined) + row(layer.linear2.weight)
    heads = column(joined).reshape(2, 4)  # two heads with four places each
    # A head is made by 4 queries, 4 keys and 4 values, a place of the values by one in each head.
    by_head = np.repeat(heads.sum(axis=1) / 12, 4)
    by_place = np.tile(heads.sum(axis=0) / 2, 2)
    after = np.concatenate([by_head, by_head, (by_head + by_place) / 2])
    expected = times(mixed, after, before)
    np.testing.assert_allclose(found["1.self_attn.in_proj_weight"], expected, rtol=1e-5)
