"""Criteria by gradients: numbers computed by hand, slow twins, and what they cannot judge."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune import plugins
from autoprune.contracts.criterion import Criterion, WeightCriterion
from autoprune.criteria import grasp
from autoprune.criteria.fairprune import FairPrune
from autoprune.criteria.fisher import Fisher
from autoprune.criteria.grasp import Grasp
from autoprune.criteria.obd import OptimalBrainDamage
from autoprune.criteria.snip import Snip
from autoprune.criteria.synflow import SynFlow
from autoprune.errors import PluginError
from autoprune.job.spec import PluginSpec
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.scoring.table import score_groups
from autoprune.testing import CriterionContract, WeightCriterionContract
from autoprune.tracing.discovery import discover
from tests.networks import Chain, Residual, built
from tests.remembering import Remembering

ALL: tuple[type[Criterion], ...] = (Fisher, OptimalBrainDamage, Snip, Grasp, SynFlow, FairPrune)


class TestFisher(CriterionContract):
    def make(self) -> Criterion:
        return Fisher()


class TestOptimalBrainDamage(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return OptimalBrainDamage()


class TestSnip(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return Snip()


class TestGrasp(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return Grasp()


class TestFairPrune(CriterionContract):
    def make(self) -> Criterion:
        return FairPrune()


def evidence_of(network: nn.Module, inputs: Tensor, labels: Tensor | None = None) -> Evidence:
    groups = discover(network, inputs[:2]).groups
    labels = torch.arange(len(inputs)) % 3 if labels is None else labels
    return Evidence(network, groups, Samples(inputs, labels))


def images(count: int = 70) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def by_hand(second: Sequence[float], inputs: Sequence[float], labels: Sequence[int]) -> Evidence:
    """Four units: h = relu((1, 2, 3, -1) x), logits (0, second · h). The last one is dead."""
    network = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    network[0].weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [-1.0]]))
    network[2].weight.copy_(torch.tensor([[0.0] * 4, list(second)]))
    return evidence_of(network.eval(), torch.tensor(inputs)[:, None], torch.tensor(labels))


def balanced() -> Evidence:
    """Samples x = 1 of class 0 and x = 2 of class 1, with equal logits: 1 + 2 - 3 + 0 = 0.

    The second logit's derivative is 1/2 for the first sample and -1/2 for the other one.
    """
    return by_hand((1.0, 1.0, -1.0, 5.0), (1.0, 2.0), (0, 1))


def test_fisher_by_hand() -> None:
    # What units add to the second logit is (1, 2, -3, 0) for x = 1 and twice that for x = 2, so
    # the gates are (1/2, 1, -3/2, 0) and (-1, -2, 3, 0).
    gates = [[0.5, 1.0, -1.5, 0.0], [-1.0, -2.0, 3.0, 0.0]]
    evidence = balanced()
    np.testing.assert_allclose(evidence.gates["0"], gates, rtol=1e-6)
    # (1/4 + 1) / 2 / 2, (1 + 4) / 4, (9/4 + 9) / 4.
    np.testing.assert_allclose(
        Fisher().scores(evidence)["0"], [0.3125, 1.25, 2.8125, 0.0], rtol=1e-6
    )


def test_obd_by_hand() -> None:
    # The mean gradient of the first kernel is (1/2 - 2/2) / 2 = -1/4 times (1, 1, -1), of the
    # second logit's weights -1/4 times (1, 2, 3), of the first logit's the opposite; that of
    # one batch of two squared, times two: 1/8 and (1, 4, 9) / 8. The dead unit has none.
    evidence = balanced()
    found = OptimalBrainDamage().saliencies(evidence)
    first = [0.0625, 0.25, 0.5625, 0.0]  # (1, 4, 9) / 2 / 8
    np.testing.assert_allclose(found["0.weight"][:, 0], first, rtol=1e-6)
    # The first logit's weights are zero, the second's 1, 1 and -1: (1, 4, 9) / 8 / 2.
    np.testing.assert_allclose(found["2.weight"], [[0.0] * 4, first], rtol=1e-6)
    np.testing.assert_allclose(OptimalBrainDamage().scores(evidence)["0"], first, rtol=1e-6)


def test_snip_by_hand() -> None:
    # The same gradients: |w g| is (1, 2, 3, 0) / 4 in either kernel, 3 altogether.
    evidence = balanced()
    shares = [1 / 12, 1 / 6, 1 / 4, 0.0]
    found = Snip().saliencies(evidence)
    np.testing.assert_allclose(found["0.weight"][:, 0], shares, rtol=1e-6)
    np.testing.assert_allclose(found["2.weight"], [[0.0] * 4, shares], rtol=1e-6)
    np.testing.assert_allclose(Snip().scores(evidence)["0"], shares, rtol=1e-6)


def test_grasp_by_hand() -> None:
    # The loss is a function of S = Σ (b - a) w alone, a and b the weights of the logits: with
    # softplus, (sp(S) + sp(-2 S)) / 2. At S = 0 that is L' = (1/2 - 2/2) / 2 = -1/4 and
    # L'' = (1/4 + 4/4) / 2 = 5/8. Let d = b - a = (1, 1, -1) and w = (1, 2, 3): the gradient is
    # L' d by w, L' w by b and -L' w by a. Its product with ∇S is L' (Σd² + 2 Σw²) = 31 L', so
    #   (H g) by w = 31 L' L'' d + 2 L'² w = -4.84375 d + 0.125 w
    #   (H g) by b = 31 L' L'' w +   L'² d = -4.84375 w + 0.0625 d
    evidence = balanced()
    first = [-4.84375 + 0.125, -9.6875 + 0.5, 14.53125 + 1.125, 0.0]
    second = [-4.84375 + 0.0625, -9.6875 + 0.0625, 14.53125 + 0.0625, 0.0]
    found = Grasp().saliencies(evidence)
    np.testing.assert_allclose(found["0.weight"][:, 0], first, rtol=1e-5)
    np.testing.assert_allclose(found["2.weight"], [[0.0] * 4, second], rtol=1e-5)
    np.testing.assert_allclose(Grasp().scores(evidence)["0"], first, rtol=1e-5)


@pytest.mark.parametrize(("beta", "weight"), [(0.0, 0.28125), (1.0, 0.25), (10.0, -0.03125)])
def test_fairprune_by_hand(beta: float, weight: float) -> None:
    # The second logit is 3 x = log 3, its probability 3/4. Class 0 is served worst: loss log 4,
    # derivative 3/4; class 1 best, with -1/4, though its losses add up to more than that one.
    # Units add (x, 2 x, 0, 0) to that logit.
    x = math.log(3) / 3
    evidence = by_hand((1.0, 1.0, 0.0, 5.0), (x,) * 7, (1, 0, 1, 1, 1, 1, 1))
    expected = weight * np.array([x, 2 * x, 0.0, 0.0]) ** 2  # (9/16 - beta / 16) / 2
    np.testing.assert_allclose(FairPrune(beta=beta).scores(evidence)["0"], expected, rtol=1e-5)


def test_fairprune_compares_the_worst_class_with_the_best() -> None:
    network, inputs, labels = _residual()
    evidence = evidence_of(network, inputs, labels)
    losses = functional.cross_entropy(network(inputs), labels, reduction="none")
    means = [float(losses[labels == each].mean()) for each in range(3)]
    worst, best = int(np.argmax(means)), int(np.argmin(means))
    found = FairPrune(beta=0.5).scores(evidence)
    for name, each in found.items():
        squares = evidence.gates[name] ** 2
        expected = squares[labels == worst].mean(0) / 2 - squares[labels == best].mean(0) / 4
        np.testing.assert_allclose(each, expected, rtol=1e-9)


def test_fairprune_needs_two_classes() -> None:
    network, inputs, labels = _residual()
    evidence = evidence_of(network, inputs, torch.ones_like(labels))
    assert FairPrune().scores(evidence) == {}
    names = tuple(each.name for each in evidence.groups.prunable)
    assert score_groups(FairPrune(), evidence).fallen_back == names


def _residual() -> tuple[nn.Module, Tensor, Tensor]:
    return built(Residual)[0], images(), torch.arange(70) % 3


@pytest.mark.parametrize("kind", [Chain, Residual])
def test_grasp_is_half_the_gradient_flow_that_leaves_with_a_weight(kind: type[nn.Module]) -> None:
    evidence = evidence_of(built(kind)[0], images())
    found = Grasp().saliencies(evidence)
    places = [
        (name, int(place))
        for name, each in found.items()
        for place in (each.argmin(), each.argmax(), each.size // 2)
    ]
    for name, place in places:
        flow = _gradient_flow(evidence, name, place)
        # Of removing a tenth of a millionth of the weight, in the direction that is stated.
        change = (flow(1 - 1e-7) - flow(1 + 1e-7)) / 2e-7
        assert change == pytest.approx(-2 * found[name].flat[place], rel=1e-3, abs=1e-6)
    assert min(each.min() for each in found.values()) < 0
    assert max(each.max() for each in found.values()) > 0


def _gradient_flow(evidence: Evidence, name: str, place: int) -> Callable[[float], float]:
    """The twin: gᵀg of kernels over all samples at once, with one weight multiplied."""
    assert evidence.samples is not None
    inputs, labels = evidence.samples.inputs.double(), evidence.samples.labels

    def flow(factor: float) -> float:
        network = copy.deepcopy(evidence.model).double().requires_grad_(True)
        kernels = dict(network.named_parameters())
        with torch.no_grad():
            kernels[name].view(-1)[place] *= factor
        loss = functional.cross_entropy(network(inputs), labels)
        given = torch.autograd.grad(loss, [kernels[each] for each in evidence.kernels])
        return sum(float(each.square().sum()) for each in given)

    return flow


def test_grasp_judges_hard_sigmoids_and_attention() -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.relu6(x + 3) / 6

    found = []
    for gate in (nn.Hardsigmoid(), Gate()):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 6), gate, nn.Linear(6, 3)).eval()
        evidence = evidence_of(network, torch.linspace(-2, 2, 40).reshape(8, 5))
        found.append(Grasp().saliencies(evidence)["0.weight"])
    assert np.ptp(found[0]) > 0
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-9)
    evidence = encoder_evidence()
    assert Grasp().saliencies(evidence).keys() == set(evidence.kernels)


def test_grasp_follows_networks_that_keep_what_they_computed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Remembering().eval()
    inputs = torch.randn(70, 4, generator=torch.Generator().manual_seed(1))
    found = Grasp().saliencies(evidence_of(network, inputs))
    network.forget_at_once = True
    expected = Grasp().saliencies(evidence_of(network, inputs))
    assert "scale" in expected
    for name, each in expected.items():
        np.testing.assert_array_equal(found[name], each)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        return gradient * 2


class _Derived(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = _Once.apply(x)
        return doubled


def test_grasp_knows_nothing_where_there_is_no_second_derivative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    evidence = evidence_of(network, torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
    network[1] = _Derived()
    assert "gradients" in evidence.has
    assert Grasp().saliencies(evidence) == {}
    assert score_groups(Grasp(), evidence).fallen_back == ("0",)

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    # Memory that runs out says nothing about the network.
    monkeypatch.setattr(grasp, "_hessian_times", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        Grasp().saliencies(evidence)


class Encoder(nn.Module):
    """A transformer encoder for short sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.encoder(self.embed(x)).mean(1))
        return logits


def encoder_evidence() -> Evidence:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Encoder().eval()
    return evidence_of(network, torch.randn(9, 4, 5, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", ALL)
def test_a_coupled_group_and_one_behind_a_flatten_are_judged(kind: type[Criterion]) -> None:
    for network in (Residual, Chain):
        evidence = evidence_of(built(network)[0], images())
        found = kind().scores(evidence)
        assert found.keys() == {each.name for each in evidence.groups.prunable}
        assert all(np.isfinite(each).all() and np.ptp(each) > 0 for each in found.values())


@pytest.mark.parametrize("kind", [OptimalBrainDamage, Snip, Grasp])
def test_units_are_worth_what_the_weights_that_make_them_are(kind: type[WeightCriterion]) -> None:
    evidence = evidence_of(built(Residual)[0], images())
    saliencies = kind().saliencies(evidence)
    both = sum(saliencies[name].reshape(8, -1).sum(1) for name in ("stem.weight", "two.weight"))
    np.testing.assert_allclose(kind().scores(evidence)["stem"], both, rtol=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_a_transformer_is_judged(kind: type[Criterion]) -> None:
    evidence = encoder_evidence()
    table = score_groups(kind(), evidence)
    # No kernel reads the width of queries and keys, and nothing flows through them: attention
    # to an input of ones is the same everywhere.
    is_seen = kind in (OptimalBrainDamage, Snip, Grasp)
    assert table.fallen_back == (() if is_seen else ("encoder.self_attn:width",))
    assert table.scores.keys() == {each.name for each in evidence.groups.prunable}


@pytest.mark.parametrize("kind", ALL)
def test_a_network_of_zeros_is_no_division(kind: type[Criterion]) -> None:
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    for each in network.parameters():
        nn.init.zeros_(each)
    evidence = evidence_of(network, torch.ones(8, 5))
    for each in kind().scores(evidence).values():
        np.testing.assert_array_equal(each, 0.0)
    assert score_groups(kind(), evidence).fallen_back == ("0",)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("synflow", {"rounds": 0}, "rounds is 0; there must be at least 1"),
        ("synflow", {"rounds": "many"}, "rounds"),
        ("fairprune", {"beta": -0.1}, "beta is -0.1; it must be a finite number of at least 0"),
        ("fairprune", {"beta": math.inf}, "beta is inf"),
        ("fairprune", {"beta": math.nan}, "beta is nan"),
        ("fisher", {"beta": 1.0}, "unknown option"),
    ],
)
def test_senseless_options_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        plugins.create("criterion", PluginSpec(name=name, options=options), seed=0)


def test_options_are_taken() -> None:
    made = plugins.create("criterion", PluginSpec(name="fairprune", options={"beta": 2.0}), seed=3)
    assert (made.beta, made.seed) == (2.0, 3)
    made = plugins.create("criterion", PluginSpec(name="synflow", options={"rounds": 7}), seed=3)
    assert (made.rounds, made.seed) == (7, 3)
