"""Evidence: what passes over samples tell, held against slow twins, and what they leave behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.contracts.criterion import Need
from autoprune.criteria.taylor import Taylor
from autoprune.graph.group import PrunableGroup
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.scoring.table import score_groups
from autoprune.tracing.discovery import discover
from tests.networks import Chain, Concat, Residual, built
from tests.reconstruction import Attention, Twice, inputs_of
from tests.remembering import Remembering
from tests.zoo import entry

BATCH = 64  # samples at a time
PASSES: dict[str, Callable[[Evidence], Any]] = {
    "has": lambda evidence: evidence.has,
    "gates": lambda evidence: evidence.gates,
    "contributions": lambda evidence: evidence.contributions,
    "gradients": lambda evidence: evidence.gradients,
    "fisher": lambda evidence: evidence.fisher,
    "moments": lambda evidence: evidence.moments,
    "observed": lambda evidence: evidence.observed(lambda read: read.mean(dim=2)),
}


class Encoder(nn.Module):
    """Self-attention of torch over tokens, which come first or second inside."""

    def __init__(self, is_batch_first: bool) -> None:
        super().__init__()
        self.is_batch_first = is_batch_first
        self.embed, self.out = nn.Linear(5, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=is_batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.encoder(x if self.is_batch_first else x.transpose(0, 1))
        logits: Tensor = self.out(x.mean(1 if self.is_batch_first else 0))
        return logits


class Windows(nn.Module):
    """A layer that reads windows of tokens, and others that make a bias from a table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.places, self.bias = nn.Linear(2, 7), nn.Linear(7, 1)
        self.register_buffer("table", torch.linspace(-1, 1, 8).reshape(1, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias(torch.tanh(self.places(self.table)))
        x = torch.relu(self.embed(x)).unflatten(1, (-1, 4)).flatten(0, 1) + bias
        x = torch.tanh(self.mix(x)).unflatten(0, (-1, 2)).flatten(1, 2)
        logits: Tensor = self.out(x.mean(1))
        return logits


@torch.no_grad()
def lively(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for each in network.parameters():
        each.normal_(0.0, 0.5, generator=generator)
    return network.eval()


def evidence_of(network: nn.Module, inputs: Tensor) -> Evidence:
    groups = discover(network, inputs[:2]).groups
    return Evidence(network, groups, Samples(inputs, torch.arange(len(inputs)) % 3))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


def batches_of(evidence: Evidence) -> list[tuple[Tensor, Tensor]]:
    assert evidence.samples is not None
    assert evidence.samples.labels is not None
    inputs, labels = evidence.samples.inputs, evidence.samples.labels
    return [(inputs[:BATCH], labels[:BATCH]), (inputs[BATCH:], labels[BATCH:])]


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "batch norm, flatten": lambda: (built(Chain)[0], drawn(6, 3, 8, 8)),
    "two batches": lambda: (built(Chain)[0], drawn(BATCH + 2, 3, 8, 8)),
    "residual": lambda: (built(Residual)[0], drawn(6, 3, 8, 8)),
    "two groups side by side": lambda: (built(Concat)[0], drawn(6, 3, 8, 8)),
    "a shared kernel": lambda: (built(Twice)[0], drawn(6, 3, 8, 8)),
    "attention written out": lambda: (built(Attention)[0], drawn(5, 3, 8, 8)),
    "cifar_resnet20": lambda: (entry("cifar_resnet20").build()[0], drawn(3, 3, 32, 32)),
    "batch first": lambda: (lively(Encoder(True)), drawn(6, 4, 5)),
    "tokens first": lambda: (lively(Encoder(False)), drawn(6, 4, 5)),
    "batch first, as many tokens": lambda: (lively(Encoder(True)), drawn(6, 6, 5)),
    "tokens first, as many tokens": lambda: (lively(Encoder(False)), drawn(6, 6, 5)),
    "windows": lambda: (lively(Windows()), drawn(6, 8, 5)),
    "windows, as many tokens": lambda: (lively(Windows()), drawn(4, 8, 5)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_are_numeric_derivatives_of_every_samples_loss(name: str) -> None:
    network, inputs = NETWORKS[name]()
    # In float64, lest a unit that is nearly off be on in one of the two.
    evidence = evidence_of(network.double(), inputs.double())
    found = evidence.gates
    # Nothing multiplies with the width of keys and queries, and a table is of no sample.
    unseen = {"encoder.self_attn:width", "qkv.0:width", "places", "table"}
    assert found
    assert {each.name for each in evidence.groups.prunable} - found.keys() <= unseen
    for group in (each for each in evidence.groups.prunable if each.name in found):
        for unit in (0, 1, group.units - 1):
            expected = _derivative(evidence, group, unit)
            np.testing.assert_allclose(found[group.name][:, unit], expected, rtol=1e-4, atol=1e-6)


def _derivative(evidence: Evidence, group: PrunableGroup, unit: int, step: float = 1e-6) -> Any:
    """The twin: all that reads a unit multiplied by 1 ± a step, shape (samples,)."""
    assert evidence.samples is not None
    inputs, labels = evidence.samples.inputs, evidence.samples.labels
    losses = []
    for factor in (1 + step, 1 - step):
        network = copy.deepcopy(evidence.model)
        named = dict(network.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for each in group.slices:
                if each.role == "in":
                    places = torch.from_numpy(each.entries[unit][each.entries[unit] >= 0])
                    named[each.tensor].movedim(each.dim, 0)[places] *= factor
            losses.append(functional.cross_entropy(network(inputs), labels, reduction="none"))
    return ((losses[0] - losses[1]) / (2 * step)).numpy()


def test_gates_are_none_where_no_group_is_read_in_sight() -> None:
    network = lively(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    assert evidence_of(network, drawn(6, 4)).gates == {}


def test_gradients_are_those_of_the_mean_loss_over_all_samples() -> None:
    evidence = evidence_of(built(Residual)[0], drawn(BATCH + 6, 3, 8, 8))
    network = copy.deepcopy(evidence.model).double().requires_grad_(True)
    assert evidence.samples is not None
    logits = network(evidence.samples.inputs.double())
    functional.cross_entropy(logits, evidence.samples.labels).backward()
    expected = {name: each.grad for name, each in network.named_parameters()}
    assert evidence.gradients.keys() == expected.keys()
    for name, each in expected.items():
        np.testing.assert_allclose(evidence.gradients[name], each, rtol=1e-4, atol=1e-7)


def test_fisher_is_the_mean_over_batches_of_their_squared_gradients() -> None:
    evidence = evidence_of(built(Residual)[0], drawn(BATCH + 6, 3, 8, 8))
    expected: dict[str, Any] = dict.fromkeys(evidence.weights, 0.0)
    for inputs, labels in batches_of(evidence):
        network = copy.deepcopy(evidence.model).double().requires_grad_(True)
        functional.cross_entropy(network(inputs.double()), labels).backward()
        for name, each in network.named_parameters():
            assert each.grad is not None
            squared = len(inputs) * each.grad.numpy() ** 2
            expected[name] = expected[name] + squared * len(inputs) / (BATCH + 6)
    for name, squares in expected.items():
        np.testing.assert_allclose(evidence.fisher[name], squares, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "readers"),
    [
        (Residual, {"stem": ["one", "out"], "one": ["two"]}),
        (Twice, {"a": ["b"], "b": ["out"]}),
        (Concat, {"left": ["mix"], "right": ["mix"], "mix": ["out"]}),
    ],
)
def test_observed_is_what_hooks_see(kind: type[nn.Module], readers: dict[str, list[str]]) -> None:
    evidence = evidence_of(built(kind)[0], drawn(BATCH + 6, 3, 8, 8))
    units = {each.name: each.units for each in evidence.groups.prunable}
    found = evidence.observed(lambda read: read.square().mean(dim=2))
    assert {group: sorted(each) for group, each in found.items()} == {
        group: [f"{each}.weight" for each in layers] for group, layers in readers.items()
    }
    layers = sorted({each for some in readers.values() for each in some})
    with inputs_of(evidence.model, layers) as seen, torch.no_grad():
        for inputs, _ in batches_of(evidence):
            evidence.model(inputs)
    for group, some in readers.items():
        for layer in some:
            places = slice(4, 10) if (group, layer) == ("right", "mix") else slice(units[group])
            read = [each[:, places].flatten(2) if each.dim() > 2 else each[:, places, None]
                    for each in seen[layer]]  # fmt: skip
            expected = torch.cat([each.square().mean(2) for each in read])
            np.testing.assert_allclose(found[group][f"{layer}.weight"], expected, rtol=1e-5)
    if kind is Twice:
        assert found["a"]["b.weight"].shape == (2 * (BATCH + 6), 8)


@pytest.mark.parametrize("is_batch_first", [True, False])
def test_what_attention_reads_is_told_by_sample(is_batch_first: bool) -> None:
    evidence = evidence_of(lively(Encoder(is_batch_first)), drawn(6, 6, 5))
    assert evidence.samples is not None
    embedded = evidence.model.get_submodule("embed")(evidence.samples.inputs)
    found = evidence.observed(lambda read: read)["embed"]
    name = "encoder.self_attn.in_proj_weight"
    np.testing.assert_allclose(found[name], embedded.detach().transpose(1, 2), rtol=1e-5)


class Failing(nn.Module):
    """Raises for a sample that has a mark, once it is looked for."""

    is_looking = False

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if self.is_looking and (x.detach() == 1e6).any():
            raise ValueError("marked")
        logits: Tensor = self.inner(x)
        return logits


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("is_failing", [False, True])
def test_passes_leave_the_network_as_it_was(name: str, is_failing: bool) -> None:
    network = Failing(built(Residual)[0])
    inputs = drawn(BATCH + 6, 3, 8, 8)
    evidence = evidence_of(network, inputs)
    network.is_looking = is_failing
    if is_failing:  # in the second batch, where there is one
        inputs[1 if name == "has" else BATCH] = 1e6
    with _unchanged(network):
        if is_failing:
            with pytest.raises(ValueError, match="marked"):
                PASSES[name](evidence)
        else:
            PASSES[name](evidence)


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    network.train()
    norm = network.get_submodule("inner.norm").eval()
    for each in norm.parameters():
        each.requires_grad_(True)
    wanted = [each.requires_grad for each in network.parameters()]
    before = copy.deepcopy(network.state_dict())
    fast = torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()
    yield
    assert [each.training for each in network.modules()] == [
        each is not norm for each in network.modules()
    ]
    assert [each.requires_grad for each in network.parameters()] == wanted
    assert all(each.grad is None for each in network.parameters())
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in network.modules())
    assert (torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()) == fast
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])


def test_what_a_network_remembers_is_let_go() -> None:
    evidence = evidence_of(lively(Remembering()), drawn(BATCH + 6, 4))
    assert "gradients" in evidence.has
    found = evidence.gradients["scale"]
    network = lively(Remembering()).train()
    assert evidence.samples is not None
    functional.cross_entropy(network(evidence.samples.inputs), evidence.samples.labels).backward()
    np.testing.assert_allclose(found, network.get_parameter("scale").grad, rtol=1e-4)
    evidence.network()  # what hangs on a pass could not be copied


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _with(function: Callable[[Tensor], Tensor], *, at_end: bool = False) -> nn.Module:
    layers = [nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)]
    layers.insert(3 if at_end else 1, Function(function))
    return lively(nn.Sequential(*layers))


EVERYTHING: frozenset[Need] = frozenset({"inputs", "labels", "gradients"})
HAVE: dict[str, tuple[Callable[[], nn.Module], frozenset[Need]]] = {
    "plain": (lambda: _with(torch.tanh), EVERYTHING),
    "norm": (
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)),
        EVERYTHING | {"batch_norm"},
    ),
    "norm without scales": (
        lambda: nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)),
        EVERYTHING,
    ),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), EVERYTHING),
    "outputs detached": (
        lambda: _with(lambda x: x.detach(), at_end=True),
        EVERYTHING - {"gradients"},
    ),
    # The head still learns, and a derivative of zero is one.
    "features detached": (lambda: _with(lambda x: x.detach()), EVERYTHING),
    "rounded": (lambda: _with(torch.round), EVERYTHING),
    "without derivative": (
        lambda: _with(lambda x: torch.igamma(x.abs() + 1, torch.ones_like(x))),
        EVERYTHING - {"gradients"},
    ),
}


@pytest.mark.parametrize("name", HAVE)
def test_every_need_is_known(name: str) -> None:
    network, expected = HAVE[name]
    inputs, labels = drawn(6, 4), torch.arange(6) % 3
    model = network().eval()
    groups = discover(_with(torch.tanh), inputs[:2]).groups
    assert Evidence(model, groups, Samples(inputs, labels)).has == expected
    assert Evidence(model, groups, Samples(inputs)).has == expected - {"labels"}
    without = expected & {"batch_norm"}
    assert Evidence(model, groups).has == without
    assert Evidence(model, groups, Samples(inputs[:0], labels[:0])).has == without


def test_where_the_derivative_is_zero_the_weights_decide() -> None:
    network = lively(
        nn.Sequential(
            nn.Linear(4, 5), Function(torch.round), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)
        )
    )
    evidence = evidence_of(network, drawn(20, 4))
    assert (evidence.gradients["0.weight"] == 0).all()
    assert (evidence.gradients["2.weight"] != 0).any()
    # What the rounded units do to the loss is seen behind them, where they are read.
    assert (evidence.gates["0"] != 0).any()
    assert score_groups(Taylor(), evidence).fallen_back == ()


def test_samples_without_labels_are_refused_where_labels_are_needed() -> None:
    network = _with(torch.tanh)
    evidence = Evidence(network, discover(network, drawn(2, 4)).groups, Samples(drawn(6, 4)))
    with pytest.raises(ValueError, match="declare them in `needs`"):
        evidence.gates  # noqa: B018
    assert [len(labels) for _, labels in evidence.batches()] == [6]


def test_convolutions_in_groups_read_their_units_in_every_group() -> None:
    generator = torch.Generator().manual_seed(0)
    first, grouped = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
    model = nn.Sequential(first, nn.ReLU(), grouped, nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    inputs = torch.randn(6, 2, 4, 4, generator=generator)
    groups = discover(model.eval(), inputs[:2]).groups
    evidence = Evidence(model, groups, Samples(inputs, torch.arange(6) % 3))
    read = groups["0"]
    seen = evidence.observed(lambda x: x.mean(dim=2))[read.name]["2.weight"]
    with torch.no_grad():
        maps = torch.relu(first(inputs)).mean(dim=(2, 3))
    places = next(each.entries for each in read.slices if each.tensor == "0.weight")
    expected = torch.stack([maps[:, unit].mean(dim=1) for unit in places], dim=1)
    assert seen.shape == (6, read.units)
    np.testing.assert_allclose(seen, expected.numpy(), rtol=1e-5)
