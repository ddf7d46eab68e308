"""PruningNet: it starts at the carved network and reaches every cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.errors import ModelError
from autoprune.evaluation import pruning_net
from autoprune.evaluation.pruning_net import PruningNet
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.models.digits_cnn import DigitsCnn
from autoprune.policy import Policy
from autoprune.surgery.plan import Plan
from tests.carving import Network, lively, planned, policies
from tests.networks import Concat, Depthwise, Residual

Made = tuple[nn.Module, Tensor]


def images(channels: int = 3, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(4, channels, size, size, generator=generator, dtype=torch.float64)


def pair(two: nn.Module, width: int) -> Made:
    """A convolution to 8 channels, and another one behind it."""
    network = Network(
        lambda net, x: net.out(net.two(torch.relu(net.one(x))).relu().mean((2, 3))),
        one=nn.Conv2d(3, 8, 3),
        two=two,
        out=nn.Linear(width, 3),
    )
    return network, images()


def transformer() -> Made:
    """Two encoder layers on patches, with positions that go with the width."""
    network = Network(
        lambda net, x: net.out(net.encoder(net.patch(x).flatten(2).mT + net.place).mean(1)),
        patch=nn.Conv2d(3, 8, 4, 4),
        place=nn.Parameter(torch.zeros(1, 4, 8)),
        encoder=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2, enable_nested_tensor=False
        ),
        out=nn.Linear(8, 3),
    )
    return network, images()


def tied() -> Made:
    """One linear layer under two names."""
    layer = nn.Linear(6, 6)
    network = Network(
        lambda net, x: net.out(net.two(torch.relu(net.one(net.start(x.flatten(1)))))),
        start=nn.Linear(192, 6),
        one=layer,
        two=layer,
        out=nn.Linear(6, 3),
    )
    return network, images()


NETWORKS: dict[str, Callable[[], Made]] = {
    "cifar_resnet": lambda: (CifarResNet(8), images()),
    "digits_cnn": lambda: (DigitsCnn(), images(channels=1)),
    "residual": lambda: (Residual(), images()),
    "depthwise": lambda: (Depthwise(), images()),
    "concat": lambda: (Concat(), images()),
    "grouped": lambda: pair(nn.Conv2d(8, 12, 3, groups=4), 12),
    "transposed": lambda: pair(nn.ConvTranspose2d(8, 5, 2), 5),
    "transformer": transformer,
    "tied": tied,
}
KINDS = ("residual", "full")


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[Plan, Tensor]:
    return small(request.param)


def small(name: str) -> tuple[Plan, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built, example = NETWORKS[name]()
    return planned(lively(built).requires_grad_(False), example)[0], example


def stirred(net: PruningNet) -> PruningNet:
    """Return the net with every parameter moved away from where it starts."""
    generator = torch.Generator().manual_seed(3)
    for each in net.parameters():
        each.data.add_(0.2 * (torch.rand(each.shape, generator=generator) - 0.5))
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_the_carved_network_exactly(network: Any, kind: Any) -> None:
    plan, example = network
    net = PruningNet(plan, generator=kind, rank=3, hidden=5)
    for policy in [*policies(plan.groups, 4), Policy()]:
        carved = plan.carve(policy)
        with torch.no_grad():
            weights = net.weights(policy)
            for name, weight in weights.items():
                assert torch.equal(weight, carved.get_parameter(name))
            assert torch.equal(carved(example), functional_call(carved, weights, example))


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_carving_cuts_is_generated_in_its_shape(network: Any, kind: Any) -> None:
    plan, example = network
    net = stirred(PruningNet(plan, generator=kind, rank=3, hidden=5))
    dense = dict(plan.model.named_parameters())
    for policy in policies(plan.groups, 4):
        carved = plan.carve(policy)
        weights = net.weights(policy)
        cut = {name for name, x in carved.named_parameters() if x.shape != dense[name].shape}
        assert set() < cut <= set(weights)
        for name, weight in weights.items():
            assert weight.shape == carved.get_parameter(name).shape
            assert not torch.equal(weight, carved.get_parameter(name))
        assert functional_call(carved, weights, example).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_of_the_generator(network: Any, kind: Any) -> None:
    plan, example = network
    net = stirred(PruningNet(plan, generator=kind, rank=3, hidden=5))
    for policy in [*policies(plan.groups, 3), Policy()]:  # in the smallest, units may be dead
        outputs = functional_call(plan.carve(policy), net.weights(policy), example)
        torch.autograd.backward(outputs.square().sum())
    missed = [name for name, each in net.named_parameters() if not each.grad.abs().sum() > 0]
    assert missed == []


def test_kernels_are_what_the_formula_says(network: Any, monkeypatch: Any) -> None:
    plan, _ = network
    monkeypatch.setattr(plan, "factors", lambda _: {plan.groups.prunable[0].slices[0].tensor: 2.0})
    net = stirred(PruningNet(plan, rank=3, hidden=5))
    policy = policies(plan.groups, 2)[0]
    weights, kept = net.weights(policy), plan.kept_entries(policy)
    code = net.trunk(net.encode(policy))
    for target, maker in zip(net.targets, net.makers, strict=True):
        dense, made = target.tensor.movedim(target.made, 0), target.made
        if dense.dim() == 1:
            whole = dense + maker.added(code)
        else:
            product = maker.left @ maker.core(code).view(3, 3)
            right = maker.right.movedim(made, 0).flatten(1)
            scale = (1 + maker.scale(code))[:, None]
            whole = ((dense.flatten(1) + product @ right) * scale).view(dense.shape)
        whole = whole.movedim(0, made) * plan.factors(policy).get(target.name, 1.0)
        for dim in range(whole.dim()):
            if (mask := kept.get((target.name, dim))) is not None:
                whole = whole.index_select(dim, torch.from_numpy(np.flatnonzero(mask)))
        torch.testing.assert_close(weights[target.name], whole)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_what_other_groups_keep(kind: Any) -> None:
    plan, _ = small("residual")
    net = stirred(PruningNet(plan, generator=kind, rank=3, hidden=8))
    policy = Policy.from_keep_ratios({"stem": 0.5})
    assert "norm.weight" not in {name for name, _ in plan.kept_entries(policy)}
    assert not torch.equal(net.weights(policy)["norm.weight"], net.weights(Policy())["norm.weight"])


def test_dropped_blocks_are_encoded_and_have_no_weights() -> None:
    plan, example = small("cifar_resnet")
    dropped = plan.groups.droppable[0]
    policy = Policy(dropped=frozenset({dropped.name}))
    net = stirred(PruningNet(plan, rank=3, hidden=8))
    assert net.encode(policy).tolist().count(0.0) == 1
    weights, dense = net.weights(policy), net.weights(Policy())
    assert {x for x in dense if not dropped.holds(x.rpartition(".")[0])} == set(weights)
    assert len(weights) < len(dense)
    carved = plan.carve(policy)
    assert set(weights) <= dict(carved.named_parameters()).keys()
    assert functional_call(carved, weights, example).isfinite().all()


def test_generators_above_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = small("residual")
    cut = sum(each.numel() for each in plan.model.parameters()) - 3  # all but the last bias
    monkeypatch.setattr(pruning_net, "MAX_GENERATED", cut * 6)
    PruningNet(plan, generator="full", hidden=5)
    with pytest.raises(ModelError, match=f"needs {cut * 7:,} weights.*at most {cut * 6:,}"):
        PruningNet(plan, generator="full", hidden=6)
    PruningNet(plan, generator="residual", hidden=6)
