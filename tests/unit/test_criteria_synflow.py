"""Synaptic flow: what passes through weights, and an order in which no layer goes alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.criterion import WeightCriterion
from autoprune.criteria.synflow import SynFlow
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.scoring.table import score_groups
from autoprune.testing import WeightCriterionContract
from autoprune.tracing.discovery import discover
from tests.networks import Chain, Residual, built


class TestSynFlow(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return SynFlow()


def evidence_of(network: nn.Module, inputs: Tensor) -> Evidence:
    return Evidence(network, discover(network, inputs).groups, Samples(inputs))


def deep(*widths: int, seed: int = 0) -> nn.Module:
    """Linear layers in a row, drawn as torch draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def test_synflow_by_hand() -> None:
    # With absolute weights units are (1, 2, 3, 1), the dead one too, and R = 1 + 2 + 3 + 5 = 11.
    network = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [-1.0]]))
        network[2].weight.copy_(torch.tensor([[0.0] * 4, [1.0, 1.0, -1.0, 5.0]]))
    evidence = evidence_of(network.eval(), torch.tensor([[7.0], [8.0]]))
    np.testing.assert_allclose(
        SynFlow().scores(evidence)["0"], np.array([1, 2, 3, 5]) / 11, rtol=1e-9
    )
    # One round leaves the two weights on the widest path. The others carry 0, 1, 2 or 3.
    found = SynFlow(rounds=1).saliencies(evidence)
    ranks = [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_array_equal(found["0.weight"][:, 0], ranks)
    np.testing.assert_array_equal(found["2.weight"], [[0.0] * 4, ranks])


def _order_by_twin(kernels: list[np.ndarray], rounds: int) -> list[np.ndarray]:
    """The slow twin: one weight after the other, of linear layers without biases in a row."""
    left = {
        (layer, row, column): abs(float(kernel[row, column]))
        for layer, kernel in enumerate(kernels)
        for row in range(kernel.shape[0])
        for column in range(kernel.shape[1])
    }
    count, order = len(left), [np.zeros(kernel.shape) for kernel in kernels]
    carried: dict[tuple[int, int, int], float] = {}
    for number in range(rounds + 1):
        found = _carried_by_twin(left, kernels)
        # When nothing flows any more, the last flow goes on deciding.
        carried = found if any(found.values()) else {place: carried[place] for place in left}
        descending = sorted(carried.values(), reverse=True)
        kept = int(np.ceil(count * 0.001 ** ((number + 1) / rounds)))
        bound = descending[min(kept, len(descending)) - 1] if number < rounds else np.inf
        leaving = {place: each for place, each in carried.items() if each < bound}
        values = sorted(set(leaving.values()))
        for (layer, row, column), each in leaving.items():
            order[layer][row, column] = number + values.index(each) / len(values)
            del left[layer, row, column]
    return order


def _carried_by_twin(
    left: dict[tuple[int, int, int], float], kernels: list[np.ndarray]
) -> dict[tuple[int, int, int], float]:
    """Every weight, times what reaches its input, times what its output makes of the total."""
    dense = [np.zeros(kernel.shape) for kernel in kernels]
    for (layer, row, column), each in left.items():
        dense[layer][row, column] = each
    reaches = [np.ones(kernels[0].shape[1])]
    for kernel in dense:
        reaches.append(kernel @ reaches[-1])
    becomes = [np.ones(kernels[-1].shape[0])]
    for kernel in reversed(dense):
        becomes.insert(0, becomes[0] @ kernel)
    return {
        # Rounded, as products in another order differ in their last digits.
        (layer, row, column): float(
            f"{each * reaches[layer][column] * becomes[layer + 1][row]:.8e}"
        )
        for (layer, row, column), each in left.items()
    }


@pytest.mark.parametrize("rounds", [1, 3, 30])
def test_the_order_of_weights_is_that_of_its_slow_twin(rounds: int) -> None:
    network = deep(5, 7, 6, 4)
    evidence = evidence_of(network, torch.randn(2, 5))
    found = SynFlow(rounds=rounds).saliencies(evidence)
    expected = _order_by_twin([evidence.weights[name] for name in evidence.kernels], rounds)
    for each, twin in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(each, twin, rtol=1e-9)


def test_without_any_flow_nothing_is_known() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 2.0], [0.0, 0.0]]))
        network[2].weight.copy_(torch.tensor([[0.0, 1.0]]))
    assert SynFlow().saliencies(evidence_of(network.eval(), torch.ones(2, 2))) == {}


def test_at_99_percent_no_kernel_is_empty_where_magnitude_empties_one() -> None:
    network = deep(16, 256, 4, 256, 4, 256, 8, 128, 10)
    evidence = evidence_of(network, torch.randn(2, 16))
    magnitude = {name: np.abs(evidence.weights[name]) for name in evidence.kernels}
    assert 0 in _kept(magnitude, 0.01).values()
    assert 0 not in _kept(SynFlow().saliencies(evidence), 0.01).values()
    # It is the rounds that do it.
    assert 0 in _kept(SynFlow(rounds=1).saliencies(evidence), 0.2).values()
    assert 0 not in _kept(SynFlow().saliencies(evidence), 0.2).values()


def _kept(saliencies: dict[str, np.ndarray], share: float) -> dict[str, int]:
    """How many weights every kernel keeps when the best of all kernels stay."""
    pooled = np.sort(np.concatenate([each.ravel() for each in saliencies.values()]))
    bound = pooled[-round(share * len(pooled))]
    return {name: int((each >= bound).sum()) for name, each in saliencies.items()}


def test_a_chain_cannot_lose_a_kernel_in_a_round_that_takes_a_small_share() -> None:
    # The first kernel has the largest weights and the second none to spare.
    network = deep(8, 40, 1, 40, 4)
    evidence = evidence_of(network, torch.randn(2, 8))
    found = SynFlow(rounds=100).saliencies(evidence)  # 1 - 0.001 ** 0.01 = 7% a round, below 1/4
    last = {name: each.max() for name, each in found.items()}
    assert min(last.values()) > 60


def test_every_kernel_of_a_chain_carries_the_same_whatever_norms_add() -> None:
    scores = []
    for shift in (0.0, 3.0):
        network, inputs = built(Chain)
        with torch.no_grad():
            network.norm.bias.fill_(shift)
            network.norm.running_mean.fill_(-shift)
            network.out.bias.fill_(shift)
        evidence = evidence_of(network, inputs * (1 + shift))
        scores.append(SynFlow().scores(evidence))
    for name, each in scores[0].items():
        np.testing.assert_array_equal(scores[1][name], each)
        assert each.sum() == pytest.approx(1.0, rel=1e-6)  # all of R


def test_a_variance_counts() -> None:
    network, inputs = built(Chain)
    before = SynFlow().scores(evidence_of(network, inputs))["a"]
    with torch.no_grad():
        network.norm.running_var[2] = 1e6
    after = SynFlow().scores(evidence_of(network, inputs))["a"]
    assert after[2] < 0.01 * before[2]
    assert (np.delete(after, 2) > np.delete(before, 2)).all()


def test_saturation_does_not_stop_the_flow() -> None:
    found = []
    for rectifier in (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1.0, 1.0)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = (
                nn.Sequential(
                    nn.Conv2d(3, 6, 3, bias=False), rectifier, nn.Conv2d(6, 4, 3), rectifier
                )
                .append(nn.Flatten())
                .append(nn.Linear(4 * 16, 3))
                .eval()
            )
        for each in network.parameters():
            each.data.mul_(100.0)
        found.append(SynFlow().scores(evidence_of(network, torch.ones(2, 3, 8, 8))))
    for other in found[1:]:
        for name, each in found[0].items():
            np.testing.assert_allclose(other[name], each, rtol=1e-6)


class Gated(nn.Module):
    """A convolution whose channels are squeezed, excited and multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        gate = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        logits: Tensor = self.out((x * torch.sigmoid(gate)).mean((2, 3)))
        return logits


def test_kernels_of_gates_carry_nothing_and_are_left_out() -> None:
    evidence = evidence_of(*built(Gated))
    assert SynFlow().saliencies(evidence).keys() == {"conv.weight", "out.weight"}
    assert score_groups(SynFlow(), evidence).fallen_back == ("squeeze",)


def test_deep_and_wide_products_do_not_overflow() -> None:
    network = deep(*[64] * 40)
    with torch.no_grad():
        for each in network.parameters():
            each.mul_(50.0)
    evidence = evidence_of(network, torch.randn(2, 64))
    total = 64.0
    for name in evidence.kernels:
        total *= float(np.abs(evidence.weights[name]).sum(0).mean())
    assert total > 3.5e38  # the end of float32
    for each in SynFlow().scores(evidence).values():
        assert each.sum() == pytest.approx(1.0, rel=1e-6)
    # Where even float64 ends, nothing is known.
    with torch.no_grad():
        for each in network.parameters():
            each.mul_(1e12)
    assert SynFlow().scores(evidence_of(network, torch.randn(2, 64))) == {}
    assert SynFlow().saliencies(evidence_of(network, torch.randn(2, 64))) == {}


def test_samples_give_their_shape_alone() -> None:
    network, inputs = built(Residual)
    one = SynFlow().scores(evidence_of(network, inputs))
    for other in (inputs * 5 - 1, torch.zeros_like(inputs)):
        for name, each in SynFlow().scores(evidence_of(network, other)).items():
            np.testing.assert_array_equal(each, one[name])


def test_tokens_are_read_as_well() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Embedding(7, 6), nn.Flatten(), nn.Linear(24, 5), nn.ReLU())
        network = network.append(nn.Linear(5, 3)).eval()
    tokens = torch.tensor([[1, 2, 3, 4], [6, 5, 4, 3]])
    found = SynFlow().saliencies(evidence_of(network, tokens))
    # An input of ones is the token one, four times.
    assert (found["0.weight"][1] > 0).all()
    assert (found["0.weight"][[0, 2, 3, 4, 5, 6]] == 0).all()
