"""Criteria that look at activations: the contract, and scores computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.criterion import Criterion, WeightCriterion
from autoprune.criteria.activation_norm import ActivationNorm
from autoprune.criteria.apoz import Apoz
from autoprune.criteria.chip import Chip, independence
from autoprune.criteria.entropy import Entropy
from autoprune.criteria.flap import Flap
from autoprune.criteria.hrank import HRank
from autoprune.criteria.wanda import Wanda
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.testing import CriterionContract, WeightCriterionContract
from tests.judging import dense, encoder, evidence_of, mixing, read_by, residual


class TestActivationNorm(CriterionContract):
    def make(self) -> Criterion:
        return ActivationNorm()


class TestApoz(CriterionContract):
    def make(self) -> Criterion:
        return Apoz()


class TestWanda(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return Wanda()


class TestFlap(CriterionContract):
    def make(self) -> Criterion:
        return Flap()


def test_the_mean_size_of_activations() -> None:
    # Means are 2, 1, 3 and 0, their mean 1.5.
    found = ActivationNorm().scores(dense())["0"]
    np.testing.assert_allclose(found, [4 / 3, 2 / 3, 2, 0])


def test_negative_activations_count_with_their_size() -> None:
    evidence = mixing([[1, 0], [0, 1], [-2, 0], [1, 1]], torch.tensor([1.0, -1]).view(1, 2, 1, 1))
    # 1, -1, -2 and 0.
    np.testing.assert_allclose(ActivationNorm().scores(evidence)["0"], [1, 1, 2, 0])
    np.testing.assert_array_equal(Apoz().scores(evidence)["0"], [1, 1, 1, 0])


def test_the_share_of_activations_that_are_not_zero() -> None:
    np.testing.assert_array_equal(Apoz().scores(dense())["0"], [1, 0.5, 1, 0])


def test_wanda_weighs_by_what_is_read() -> None:
    evidence = dense()
    # Roots of mean squares: √((1 + 9)/2) = √5, √((4 + 0)/2) = √2, 3 and 0.
    norms = np.array([math.sqrt(5), math.sqrt(2), 3, 0])
    np.testing.assert_allclose(evidence.input_norms["2.weight"], norms)
    found = Wanda().saliencies(evidence)["2.weight"]
    np.testing.assert_allclose(found, np.array([[1, 2, 0, 1], [0, 1, 1, 5]]) * norms, rtol=1e-6)
    # Columns have norms 1, √5, 1 and √26.
    scores = Wanda().scores(evidence)["0"]
    np.testing.assert_allclose(scores, [math.sqrt(5), math.sqrt(10), 3, 0], rtol=1e-6)


def test_flap_weighs_fluctuations_and_standardises() -> None:
    evidence = dense()
    np.testing.assert_allclose(evidence.input_variances["2.weight"], [1, 1, 0, 0])
    # Times squared norms 1, 5, 1 and 26: (1, 5, 0, 0), mean 1.5 and variance
    # (0.25 + 12.25 + 2.25 + 2.25) / 4 = 4.25.
    expected = np.array([-0.5, 3.5, -1.5, -1.5]) / math.sqrt(4.25)
    np.testing.assert_allclose(Flap().scores(evidence)["0"], expected)


def test_flap_tells_nothing_where_nothing_varies() -> None:
    evidence = dense()
    assert evidence.samples is not None
    same = Samples(torch.full((100, 2), 0.1))
    assert Flap().scores(Evidence(evidence.model, evidence.groups, same)) == {}
    factors = torch.tensor([3.0, 7, 11, 13])
    with torch.no_grad():
        evidence.model.get_parameter("0.weight").copy_(factors[:, None].expand(4, 2))
        evidence.model.get_parameter("2.weight").copy_(1 / factors.expand(2, 4))
    noise = Samples(torch.rand(100, 2, generator=torch.Generator().manual_seed(0)))
    # Louder units are read by weaker weights: what is left between them is rounding.
    assert Flap().scores(Evidence(evidence.model, evidence.groups, noise)) == {}


def test_readers_of_a_coupled_group_vote_on_one_scale() -> None:
    evidence = residual()
    near = read_by(evidence, "inner").abs().mean(dim=(0, 2, 3)).numpy()
    far = read_by(evidence, "head").unflatten(1, (4, 16)).abs().mean(dim=(0, 2)).numpy()
    found = ActivationNorm().scores(evidence)["stem"]
    np.testing.assert_allclose(found, (near / near.mean() + far / far.mean()) / 2)
    shares = [
        (read_by(evidence, "inner") != 0).double().mean(dim=(0, 2, 3)),
        (read_by(evidence, "head").unflatten(1, (4, 16)) != 0).double().mean(dim=(0, 2)),
    ]
    np.testing.assert_allclose(Apoz().scores(evidence)["stem"], sum(shares).numpy() / 2)


def test_what_units_contribute_to_several_readers_adds_up() -> None:
    evidence = residual()
    worth = np.zeros(4)
    near, far = read_by(evidence, "inner"), read_by(evidence, "head")
    for unit in range(4):
        kernel = evidence.weights["inner.weight"][:, unit]
        worth[unit] += np.linalg.norm(kernel) * float(near[:, unit].square().mean().sqrt())
        total = 0.0
        for column in range(16 * unit, 16 * unit + 16):
            reading = evidence.weights["head.weight"][:, column]
            total += np.square(reading).sum() * float(far[:, column].square().mean())
        worth[unit] += math.sqrt(total)
    np.testing.assert_allclose(Wanda().scores(evidence)["stem"], worth, rtol=1e-5)


def test_outputs_of_convolutions_in_groups_read_their_own_channels() -> None:
    layers = (nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 6, 1, groups=6))
    inputs = torch.randn(7, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    evidence = evidence_of(nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 3)), inputs)
    found = Wanda().saliencies(evidence)
    for name, per_group in (("1", 2), ("2", 1)):
        read, kernel = read_by(evidence, name), evidence.weights[f"{name}.weight"]
        outputs_of_one = {"1": 3, "2": 1}[name]
        for output in range(6):
            for place in range(per_group):
                channel = output // outputs_of_one * per_group + place
                norm = float(read[:, channel].square().mean().sqrt())
                np.testing.assert_allclose(
                    found[f"{name}.weight"][output, place],
                    np.abs(kernel[output, place]) * norm,
                    rtol=1e-5,
                )
    # The places within its two groups: one unit is two channels, and all six outputs read it.
    norms = np.linalg.norm(found["1.weight"].transpose(1, 0, 2, 3).reshape(2, -1), axis=1)
    np.testing.assert_allclose(Wanda().scores(evidence)["0"], norms, rtol=1e-6)


def test_kernels_that_cannot_be_watched_are_left_out() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cells = nn.Linear(6, 8), nn.LSTM(8, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.cells(self.embed(x))[0][:, -1])
            return logits

    inputs = torch.randn(9, 4, 6, generator=torch.Generator().manual_seed(0))
    evidence = evidence_of(Recurrent(), inputs)
    assert list(Wanda().saliencies(evidence)) == ["embed.weight", "head.weight"]
    # What the recurrent layer makes is seen at the head; what it reads is not.
    for criterion in (Wanda(), Flap(), ActivationNorm(), Apoz(), Entropy(), Chip()):
        assert criterion.scores(evidence).keys() == {"cells"}


def test_units_of_transformers_are_judged_where_they_are_read() -> None:
    evidence = encoder()
    seen = {"embed", "layer.self_attn:heads", "layer.self_attn:values", "layer.linear1"}
    hidden = read_by(evidence, "layer.linear2")
    for criterion in (Wanda(), Flap(), ActivationNorm(), Apoz(), Entropy(), Chip()):
        found = criterion.scores(evidence)
        assert found.keys() == seen
        assert all(np.isfinite(each).all() for each in found.values())
    assert not HRank().scores(evidence)  # tokens lie in no planes
    means = hidden.abs().mean(dim=(0, 1)).numpy()
    found = ActivationNorm().scores(evidence)["layer.linear1"]
    np.testing.assert_allclose(found, means / means.mean(), rtol=1e-6)
    chosen = hidden[np.linspace(0, 23, 16).astype(int)]
    drops = torch.stack([independence(each.T) for each in chosen]).mean(dim=0)
    found = Chip().scores(evidence)["layer.linear1"]
    np.testing.assert_allclose(found, (drops / drops.mean()).numpy(), rtol=1e-6)
    # Four columns of the last projection read a head, each with its own variance.
    values = evidence.input_variances["layer.self_attn.out_proj.weight"]
    squares = np.square(evidence.weights["layer.self_attn.out_proj.weight"]).sum(axis=0)
    worth = (values * squares).reshape(2, 4).sum(axis=1)
    sign = np.where(worth > worth.mean(), 1.0, -1.0)
    np.testing.assert_allclose(Flap().scores(evidence)["layer.self_attn:heads"], sign)


def test_dead_units_are_worth_nothing() -> None:
    evidence = residual()
    with torch.no_grad():
        evidence.model.get_parameter("inner.weight")[2] = 0.0
        evidence.model.get_parameter("inner.bias")[2] = -1.0
    for criterion in (Wanda(), ActivationNorm(), Apoz(), Entropy(), Chip(), HRank()):
        found = criterion.scores(evidence)["inner"]
        assert found[2] == pytest.approx(0.0, abs=1e-12)
        assert np.delete(found, 2).min() > 1e-3
    assert Flap().scores(evidence)["inner"].argmin() == 2


def test_moments_of_channels_are_those_of_all_batches_together() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 1000.0 + torch.randn(150, 6, generator=generator)  # three batches, far from zero
    evidence = evidence_of(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), inputs)
    exact = inputs.double().numpy()
    np.testing.assert_allclose(evidence.input_variances["0.weight"], exact.var(axis=0), rtol=1e-5)
    norms = np.sqrt(np.square(exact).mean(axis=0))
    np.testing.assert_allclose(evidence.input_norms["0.weight"], norms, rtol=1e-6)
