"""Criteria that propagate from the outputs back: the contract, and scores computed by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.criterion import Criterion
from autoprune.criteria.nisp import Nisp
from autoprune.criteria.relevance import Relevance
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.testing import CriterionContract
from autoprune.tracing.discovery import discover
from tests.judging import dense, encoder, evidence_of, residual
from tests.zoo import enliven


class TestNisp(CriterionContract):
    def make(self) -> Criterion:
        return Nisp()


class TestRelevance(CriterionContract):
    def make(self) -> Criterion:
        return Relevance()


class Block(nn.Module):
    """A branch that is added to what it reads."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = x + self.branch(x)
        return outputs


def conv(inputs: int, outputs: int, size: int = 1, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, size, groups=groups, bias=False)


def basic() -> Block:
    return Block(conv(4, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4), nn.BatchNorm2d(4))


def inverted() -> Block:
    return Block(
        *(conv(4, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 6, groups=6), nn.BatchNorm2d(6)),
        *(nn.ReLU(), conv(6, 4), nn.BatchNorm2d(4)),
    )


def depthwise_first() -> Block:
    return Block(conv(4, 4, groups=4), conv(4, 6), nn.ReLU(), conv(6, 4))


class Beside(nn.Module):
    """Two kernels of unlike size that read the same, and whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = conv(4, 5, 2), conv(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.wide(x) + self.narrow(x)[:, :, 1:, 1:]
        return outputs


def staged(*blocks: nn.Module) -> nn.Module:
    """A stem, residual blocks, and a head with all kinds of layers that read a map."""
    head = (Beside(), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
    model = nn.Sequential(conv(2, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(*blocks), *head)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in model.parameters():
            each.normal_(generator=generator)
    enliven(model, seed=3)
    return model.eval()


def gradients(model: nn.Module, inputs: Tensor, places: dict[str, str]) -> dict[str, np.ndarray]:
    """Return group → gradient of all outputs at a module, in the network of absolute weights."""
    absolute = copy.deepcopy(model)
    for module in list(absolute.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Identity())
    seen: dict[str, Tensor] = {}
    for group, place in places.items():

        def keep(_: nn.Module, __: object, output: Tensor, group: str = group) -> None:
            output.retain_grad()
            seen[group] = output

        absolute.get_submodule(place).register_forward_hook(keep)
    for each in absolute.parameters():
        each.data.abs_()
    absolute(inputs).sum().backward()
    found = {}
    for group, each in seen.items():
        assert each.grad is not None
        importance = each.grad.sum(dim=(0, 2, 3)).numpy()
        found[group] = importance / importance.mean()
    return found


def test_importance_flows_back_through_absolute_weights() -> None:
    first, second, third = (
        nn.Linear(3, 4, bias=False),
        nn.Linear(4, 2, bias=False),
        nn.Linear(2, 2, bias=False),
    )
    with torch.no_grad():
        second.weight.copy_(torch.tensor([[1.0, 2, 0, 1], [0, 1, -1, 5]]))
        third.weight.copy_(torch.tensor([[1.0, -2], [0, 3]]))
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
    graph = discover(model, torch.randn(2, 3))
    found = Nisp().scores(Evidence(model, graph.groups))
    # Columns of the last layer: 1 and 2 + 3 = 5, mean 3.
    np.testing.assert_allclose(found["2"], [1 / 3, 5 / 3])
    # 1 · (1, 2, 0, 1) + 5 · (0, 1, 1, 5) = (1, 7, 5, 26), mean 9.75.
    np.testing.assert_allclose(found["0"], np.array([1, 7, 5, 26]) / 9.75)


@pytest.mark.parametrize(
    ("blocks", "places"),
    [
        ((), {}),
        ((basic,), {"3.0.branch.0": "3.0.branch.1"}),
        ((basic, basic), {"3.0.branch.0": "3.0.branch.1", "3.1.branch.0": "3.1.branch.1"}),
        ((inverted,), {"3.0.branch.0": "3.0.branch.1"}),
        ((depthwise_first,), {"3.0.branch.1": "3.0.branch.1"}),
        ((basic, depthwise_first, inverted), {"3.2.branch.0": "3.2.branch.1"}),
    ],
)
def test_importance_is_the_gradient_of_the_network_of_absolute_weights(
    blocks: tuple[Callable[[], Block], ...], places: dict[str, str]
) -> None:
    model = staged(*(each() for each in blocks))
    inputs = torch.randn(1, 2, 3, 3)
    slow = gradients(model, inputs, {"0": "1", "4.wide": "4", **places})
    found = Nisp().scores(Evidence(model, discover(model, inputs).groups))
    assert slow.keys() <= found.keys()
    for group, each in slow.items():
        np.testing.assert_allclose(found[group], each, rtol=1e-5)
        assert np.ptp(each) > 0.01


def test_importance_stays_finite_in_deep_networks() -> None:
    layers = [nn.Linear(4, 4, bias=False) for _ in range(60)]
    with torch.no_grad():
        for each in layers:
            each.weight.mul_(1e8)
    model = nn.Sequential(*layers)
    found = Nisp().scores(Evidence(model, discover(model, torch.randn(2, 4)).groups))
    importance = np.ones(4)
    for number in reversed(range(1, 60)):
        importance = layers[number].weight.detach().double().abs().numpy().T @ importance
        importance /= importance.mean()
        np.testing.assert_allclose(found[str(number - 1)], importance, rtol=1e-6)


def test_importance_reaches_the_units_of_transformers() -> None:
    evidence = encoder()
    found = Nisp().scores(evidence)
    # Queries and keys are read by no kernel.
    parts = {"embed", "layer.self_attn:heads", "layer.self_attn:values", "layer.linear1"}
    assert found.keys() == parts
    # The encoder's stream has the head's columns when it is passed to its last kernel.
    stream = np.abs(evidence.weights["head.weight"].astype(np.float64)).sum(axis=0)
    hidden = np.abs(evidence.weights["layer.linear2.weight"]).T @ stream
    np.testing.assert_allclose(found["layer.linear1"], hidden / hidden.mean(), rtol=1e-6)
    stream += np.abs(evidence.weights["layer.linear1.weight"]).T @ hidden
    read = np.abs(evidence.weights["layer.self_attn.out_proj.weight"]).T @ stream
    # Columns 0 to 3 are head 0; of either head, place 0 is in columns 0 and 4.
    heads, values = read.reshape(2, 4).sum(axis=1), read.reshape(2, 4).sum(axis=0)
    np.testing.assert_allclose(found["layer.self_attn:heads"], heads / heads.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["layer.self_attn:values"], values / values.mean(), rtol=1e-6)
    # A head has 12 of the 24 rows: 4 each of queries, keys and values. Rows of values are also
    # those of a place, which has one in either head.
    shares = np.repeat(heads, 4) / 12
    rows = np.concatenate([shares, shares, (shares + np.tile(values, 2) / 2) / 2])
    stream += np.abs(evidence.weights["layer.self_attn.in_proj_weight"]).T @ rows
    np.testing.assert_allclose(found["embed"], stream / stream.mean(), rtol=1e-6)


def test_units_that_nothing_reads_have_no_importance() -> None:
    evidence = dense()
    with torch.no_grad():
        evidence.model.get_parameter("2.weight")[:, 1] = 0.0
    # Columns of (1, 0, 1, 6) are left, mean 2.
    np.testing.assert_allclose(Nisp().scores(evidence)["0"], [0.5, 0, 0.5, 3])
    with torch.no_grad():
        evidence.model.get_parameter("2.weight").zero_()
    again = Evidence(evidence.model, evidence.groups)
    np.testing.assert_array_equal(Nisp().scores(again)["0"], np.zeros(4))


def labelled(evidence: Evidence, labels: Tensor) -> Evidence:
    assert evidence.samples is not None
    return Evidence(evidence.model, evidence.groups, Samples(evidence.samples.inputs, labels))


def test_relevance_is_what_speaks_for_the_true_class() -> None:
    evidence = labelled(dense(), torch.tensor([0, 1]))
    # Of the first sample's logit (1·1, 2·2, 3·0, 0·1), of the second's (3·0, 0·1, 3·-1, 0·5).
    np.testing.assert_allclose(evidence.contributions["0"], [[1, 4, 0, 0], [0, 0, -3, 0]])
    np.testing.assert_allclose(Relevance().scores(evidence)["0"], [0.5, 2, 0, 0])


def test_relevances_of_every_layer_add_up_to_the_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = (conv(2, 4, 3), nn.ReLU(), conv(4, 6, 2), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(24, 3, bias=False))
    inputs, labels = torch.randn(70, 2, 5, 5, generator=generator), torch.arange(70) % 3
    evidence = labelled(evidence_of(model, inputs), labels)
    with torch.no_grad():
        logits = model(inputs)[torch.arange(70), labels].numpy()
    assert evidence.contributions.keys() == {"0", "2"}
    for each in evidence.contributions.values():
        np.testing.assert_allclose(each.sum(axis=1), logits, atol=1e-5)


def test_all_readers_of_a_coupled_group_count() -> None:
    evidence = labelled(residual(), torch.arange(24) % 3)
    assert evidence.samples is not None
    model = copy.deepcopy(evidence.model).double()
    inputs, places = evidence.samples.inputs.double(), (torch.arange(24), torch.arange(24) % 3)
    step = 1e-7
    with torch.no_grad():
        before = model(inputs)[places]
        for unit in range(4):
            louder = copy.deepcopy(model)
            louder.get_parameter("inner.weight")[:, unit] *= 1.0 + step
            louder.get_parameter("head.weight")[:, 16 * unit : 16 * unit + 16] *= 1.0 + step
            slow = (louder(inputs)[places] - before) / step
            found = evidence.contributions["stem"][:, unit]
            np.testing.assert_allclose(found, slow.numpy(), rtol=1e-3, atol=1e-4)


def test_relevance_of_units_of_transformers() -> None:
    evidence = labelled(encoder(), torch.arange(24) % 3)
    found = Relevance().scores(evidence)
    parts = {"embed", "layer.self_attn:heads", "layer.self_attn:values", "layer.linear1"}
    assert found.keys() == parts
    # Heads and places in them are two ways to part what the last projection of attention reads.
    heads, values = (evidence.contributions[f"layer.self_attn:{x}"] for x in ("heads", "values"))
    np.testing.assert_allclose(heads.sum(axis=1), values.sum(axis=1), atol=1e-6)
    for each in found.values():
        assert (each >= 0.0).all()
        assert np.ptp(each) > 0.0
