"""Criteria that look at feature maps: the contract, and scores computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.criterion import Criterion
from autoprune.criteria.chip import Chip, independence
from autoprune.criteria.entropy import Entropy
from autoprune.criteria.hrank import HRank
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.scoring.table import score_groups
from autoprune.testing import CriterionContract
from tests.judging import dense, evidence_of, mixing, read_by, residual


class TestEntropy(CriterionContract):
    def make(self) -> Criterion:
        return Entropy()


class TestHRank(CriterionContract):
    def make(self) -> Criterion:
        return HRank()

    def test_units_are_told_apart(self) -> None:
        # A linear layer reads the other group, whose maps are laid out in a row.
        assert score_groups(self.make(), self.evidence()).fallen_back == ("3",)


class TestChip(CriterionContract):
    def make(self) -> Criterion:
        return Chip()


def test_the_entropy_over_samples() -> None:
    evidence = dense()
    samples = Samples(torch.tensor([[1.0, 2], [3, 0], [1, 0], [1, 1]]))
    found = Entropy(bins=2).scores(Evidence(evidence.model, evidence.groups, samples))["0"]
    # Units are read as 1 3 1 1, 2 0 0 1, 3 3 1 2 and 0 0 0 0: three are in one half of the range
    # and one in the other, two in either (1 is in the upper half of 0 to 2), one and three.
    uneven = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    np.testing.assert_allclose(found, [uneven, math.log(2), uneven, 0])


def test_entropy_is_that_of_a_histogram() -> None:
    evidence = residual()
    read = read_by(evidence, "inner").mean(dim=(2, 3)).numpy()
    flat = read_by(evidence, "head").unflatten(1, (4, 16)).mean(dim=2).numpy()
    slow = np.zeros(4)
    for unit in range(4):
        for values in (read[:, unit], flat[:, unit]):
            for count in np.histogram(values, bins=5)[0]:
                slow[unit] -= count / 24 * math.log(count / 24) / 2 if count else 0.0
    np.testing.assert_allclose(Entropy(bins=5).scores(evidence)["stem"], slow)


def test_rounding_has_no_entropy() -> None:
    evidence = mixing([[1, 0], [0, 1], [1, 1], [0, 0]], torch.rand(9, 2, 1, 1) * 1e-7 + 1.0)
    np.testing.assert_array_equal(Entropy().scores(evidence)["0"], np.zeros(4))


def planes() -> Evidence:
    """Maps of two samples: unit matrix and ones, nothing and ones, and mixtures of them."""
    inputs = torch.tensor(
        [[[[1.0, 0], [0, 1]], [[1, 1], [1, 1]]], [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]]
    )
    return mixing([[1, 0], [0, 1], [0, 0], [1, 1]], inputs)


def test_the_rank_of_maps() -> None:
    # Ranks are 2, 1, 0 and 2 of the first sample, 0, 1, 0 and 1 of the other; the full one is 2.
    np.testing.assert_allclose(HRank().scores(planes())["0"], [0.5, 0.5, 0, 0.75])
    np.testing.assert_allclose(HRank(samples=1).scores(planes())["0"], [1, 0.5, 0, 1])


def test_ranks_are_those_of_single_maps() -> None:
    evidence = residual()
    found = HRank(samples=5).scores(evidence)
    assert found.keys() == {"stem", "inner"}
    for group, reader in (("stem", "inner"), ("inner", "outer")):
        read = read_by(evidence, reader).float().numpy()
        # Five of 24 samples, evenly spread.
        slow = [
            [np.linalg.matrix_rank(read[sample, unit]) / 4 for unit in range(read.shape[1])]
            for sample in (0, 5, 11, 17, 23)
        ]
        np.testing.assert_allclose(found[group], np.mean(slow, axis=0))


def test_maps_are_planes_where_channels_come_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, (1, 3)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.second(self.first(x).permute(0, 2, 3, 1)).mean(dim=(1, 2))
            return logits

    inputs = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    inputs[1, 0] = torch.outer(inputs[1, 0, :, 0], inputs[1, 0, 0])
    model = Last()
    with torch.no_grad():
        model.first.weight.copy_(torch.eye(4, 3).view(4, 1, 1, 3))
        model.first.bias.copy_(torch.tensor([0.0, 0, 0, 7]))
    # Planes of (5, 2), cut out of noise, of full rank, and of a product, of rank 1; the last is 7
    # everywhere.
    found = HRank().scores(evidence_of(model, inputs))["first"]
    np.testing.assert_array_equal(found, [0.75, 0.75, 0.75, 0.5])


def test_what_is_no_plane_has_no_rank() -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            maps: Tensor = self.second(self.first(x.flatten(0, 1)))
            return maps.mean(dim=(2, 3)).unflatten(0, (-1, 2)).mean(dim=1)

    rows = mixing([[1, 0], [0, 1], [1, 1], [1, 2]], torch.rand(3, 2, 1, 5))
    assert HRank().scores(rows) == {}
    # Two frames of each sample stand one after the other.
    assert HRank().scores(evidence_of(Frames(), torch.rand(3, 2, 1, 5, 5))) == {}
    assert HRank().scores(dense()) == {}


def test_independence_is_what_others_cannot_make_up_for() -> None:
    # Rows (3, 0), (0, 4), (3, 0) and nothing: singular values 3√2 and 4. Without the first or the
    # third the other has 3, without the second there is no 4.
    inputs = torch.tensor([[[[3.0, 0]], [[0, 4.0]]]])
    evidence = mixing([[1, 0], [0, 1], [1, 0], [0, 0]], inputs)
    drops = np.array([3 * math.sqrt(2) - 3, 4, 3 * math.sqrt(2) - 3, 0])
    np.testing.assert_allclose(Chip().scores(evidence)["0"], drops / drops.mean(), atol=1e-10)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (9, 5), (5, 5), (30, 70), (40, 1), (1, 3)])
def test_independence_is_that_of_one_decomposition_a_unit(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if shape[0] > 3:
        matrix[1], matrix[2], matrix[3] = matrix[0], 0.0, 1e-5 * matrix[3]
    slow = []
    for unit in range(len(matrix)):
        others = matrix.clone()
        others[unit] = 0.0
        slow.append(torch.linalg.svdvals(matrix).sum() - torch.linalg.svdvals(others).sum())
    torch.testing.assert_close(independence(matrix), torch.stack(slow), rtol=1e-9, atol=1e-10)


def test_layers_without_maps_have_independence_too() -> None:
    evidence = dense()
    # At one position the nuclear norm is the Euclidean one: of (3, 0, 3, 0), 3√2 without one is 3.
    samples = Samples(torch.tensor([[3.0, 0]]))
    found = Chip().scores(Evidence(evidence.model, evidence.groups, samples))["0"]
    np.testing.assert_allclose(found, [2, 0, 2, 0], atol=1e-10)
    assert not independence(torch.zeros(3, 2)).any()


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="bins must be at least 2, given 1"):
        Entropy(bins=1)
    for criterion in (Chip, HRank):
        with pytest.raises(ValueError, match="samples must be at least 1, given 0"):
            criterion(samples=0)
