"""Suite for criteria: inherit, and say how yours is made.

class TestMine(CriterionContract):
    def make(self):
        return Mine(seed=0)
"""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.contracts.criterion import Criterion, WeightCriterion
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.scoring.table import score_groups
from autoprune.tracing.discovery import discover

UNITS = 6
_ORDER = torch.tensor([3, 1, 5, 0, 4, 2])
_SAMPLES = 80


class CriterionContract:
    """What every criterion promises, on two convolutions with batch norms and a linear layer."""

    def make(self) -> Criterion:
        """Return the criterion under test."""
        raise NotImplementedError

    def evidence(self, order: Tensor | None = None) -> Evidence:
        """Return evidence whose first layer has its channels in the given order."""
        model = _network(order)
        generator = torch.Generator().manual_seed(5)
        inputs = torch.randn(_SAMPLES, 2, 8, 8, generator=generator)
        labels = torch.arange(_SAMPLES) % 3
        return Evidence(model, discover(model, inputs[:2]).groups, Samples(inputs, labels))

    def test_there_is_one_finite_score_per_unit(self) -> None:
        evidence = self.evidence()
        found = self.make().scores(evidence)
        units = {each.name: each.units for each in evidence.groups.prunable}
        assert found
        assert found.keys() <= units.keys()
        for name, scores in found.items():
            assert scores.shape == (units[name],)
            assert scores.dtype == np.float64
            assert np.isfinite(scores).all()

    def test_units_are_told_apart(self) -> None:
        assert not score_groups(self.make(), self.evidence()).fallen_back

    def test_reordering_channels_reorders_scores(self) -> None:
        plain, moved = (
            self.make().scores(self.evidence(order)) for order in (torch.arange(UNITS), _ORDER)
        )
        np.testing.assert_allclose(moved["0"], plain["0"][_ORDER.numpy()], rtol=1e-4)
        for name in plain.keys() - {"0"}:
            np.testing.assert_allclose(moved[name], plain[name], rtol=1e-4)

    def test_scores_are_repeatable(self) -> None:
        criterion, evidence = self.make(), self.evidence()
        first = criterion.scores(evidence)
        for again in (
            criterion.scores(evidence),
            self.make().scores(evidence),
            self.make().scores(self.evidence()),
        ):
            for name, each in first.items():
                np.testing.assert_array_equal(again[name], each)

    def test_what_it_needs_is_all_that_it_uses(self) -> None:
        criterion, evidence = self.make(), self.evidence()
        assert criterion.needs <= evidence.has
        samples = evidence.samples
        assert samples is not None
        if "inputs" not in criterion.needs:
            criterion.scores(Evidence(evidence.model, evidence.groups))
        elif "labels" not in criterion.needs:
            unlabelled = Samples(samples.inputs)
            criterion.scores(Evidence(evidence.model, evidence.groups, unlabelled))
        if criterion.cost == "weights":
            assert not criterion.needs & {"inputs", "labels", "gradients"}

    def test_the_network_is_left_as_it_was(self) -> None:
        evidence = self.evidence()
        evidence.model.train()
        before = copy.deepcopy(evidence.model.state_dict())
        wanted = [each.requires_grad for each in evidence.model.parameters()]
        self.make().scores(evidence)
        assert all(each.training for each in evidence.model.modules())
        assert [each.requires_grad for each in evidence.model.parameters()] == wanted
        assert all(each.grad is None for each in evidence.model.parameters())
        for name, each in evidence.model.state_dict().items():
            assert torch.equal(each, before[name])

    def test_no_global_random_state_is_read_or_changed(self) -> None:
        found = []
        for seed in (1, 2):
            # The global generators are what is watched: restored when it is over.
            before = random.getstate(), np.random.get_state(), torch.get_rng_state()
            try:
                evidence = self.evidence()
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
                disturbed = random.getstate(), _numpy_state(), torch.get_rng_state()
                found.append(self.make().scores(evidence)["0"])
                assert random.getstate() == disturbed[0]
                assert _numpy_state() == disturbed[1]
                assert torch.equal(torch.get_rng_state(), disturbed[2])
            finally:
                random.setstate(before[0])
                np.random.set_state(before[1])
                torch.set_rng_state(before[2])
        np.testing.assert_array_equal(found[0], found[1])


class WeightCriterionContract(CriterionContract):
    """What criteria promise that judge single weights as well.

    `slack` is by what share of the largest saliency rounding may change one.
    """

    slack = 1e-5

    def make(self) -> WeightCriterion:
        """Return the criterion under test."""
        raise NotImplementedError

    def test_every_weight_is_judged(self) -> None:
        evidence = self.evidence()
        found = self.make().saliencies(evidence)
        assert list(found) == ["0.weight", "3.weight", "7.weight"]
        for name, each in found.items():
            assert each.shape == evidence.weights[name].shape
            assert np.isfinite(each).all()
            assert np.ptp(each) > 0

    def test_reordering_channels_reorders_weights(self) -> None:
        plain, moved = (
            self.make().saliencies(self.evidence(order)) for order in (torch.arange(UNITS), _ORDER)
        )
        order = _ORDER.numpy()
        # Weights that count for nearly nothing may differ by rounding.
        slack = {name: self.slack * float(np.abs(each).max()) for name, each in plain.items()}
        for name, each in (
            ("0.weight", plain["0.weight"][order]),
            ("3.weight", plain["3.weight"][:, order]),
            ("7.weight", plain["7.weight"]),
        ):
            np.testing.assert_allclose(moved[name], each, rtol=1e-4, atol=slack[name])


@torch.no_grad()
def _network(order: Tensor | None) -> nn.Module:
    """Return a network with values of its own in every layer."""
    first, second = nn.Conv2d(2, UNITS, 3, padding=1), nn.Conv2d(UNITS, 5, 3, padding=1)
    norm, head = nn.BatchNorm2d(UNITS), nn.Linear(5 * 64, 3)
    model = nn.Sequential(
        first, norm, nn.ReLU(), second, nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), head
    )
    generator = torch.Generator().manual_seed(3)
    for name, each in model.state_dict().items():
        if each.is_floating_point():
            each.copy_(torch.randn(each.shape, generator=generator) * 0.3 + 0.1)
        if name.endswith("running_var"):
            each.abs_().add_(0.5)
    if order is not None:
        for module in (first, norm):
            for each in module.state_dict().values():
                if each.dim():
                    each.copy_(each[order])
        second.weight.copy_(second.weight[:, order])
    return model.eval()


def _numpy_state() -> tuple[list[int], int]:
    inner = np.random.get_state(legacy=False)["state"]
    return inner["key"].tolist(), inner["pos"]
