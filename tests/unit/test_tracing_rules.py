"""What stays whole and why, what a network may take and return, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.surgery.proof import prove
from autoprune.tracing import recorder
from autoprune.tracing.discovery import discover
from tests.carving import Network, assert_exact, column, entries, lively, places, planned, policies


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


VECTORS, IMAGES = drawn(2, 3), drawn(2, 3, 4, 4)


def around(step: Callable[[Tensor], Tensor], read: int = 4, made: int = 4) -> Network:
    """Return a layer of some units, a step, and a layer that reads what the step makes."""
    return Network(
        lambda net, x: net.out(step(net.a(x))), a=nn.Linear(3, made), out=nn.Linear(read, 2)
    )


def named(groups: GroupTable) -> dict[str, int]:
    return {group.name: group.units for group in groups.prunable}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda x: x.softmax(1), "aten._softmax weighs its units against each other"),
        (lambda x: x.log_softmax(1), "aten._log_softmax weighs its units against each other"),
        (lambda x: x.cumprod(1), "aten.cumprod weighs its units against each other"),
        (lambda x: x.sort(1).values, "aten.sort weighs its units against each other"),
        (lambda x: x - x.mean(1, keepdim=True), "aten.mean counts its units"),
        (lambda x: x - x.amax(1, keepdim=True), "aten.amax counts its units"),
        (lambda x: x / x.std(1, keepdim=True), "aten.std counts its units"),
        (lambda x: x.cummax(1).values, "it passes through aten.cummax"),
        (lambda x: torch.fft.fft(x, dim=1).abs(), "it passes through aten._fft_r2c"),
        (lambda x: x.gather(1, x.argsort(1)), "aten.sort weighs its units against each other"),
        (lambda x: x.gather(1, torch.arange(4).expand(len(x), 4)), "it passes through aten.gather"),
        (lambda x: x.roll(1, 1), "it is moved by aten.roll"),
        (lambda x: x.flip(1), "it is moved by aten.flip"),
        (lambda x: x[:, ::2].repeat(1, 2), "every other entry is taken"),
        (lambda x: x[:, [3, 0, 1, 2]], "its entries are picked by number"),
        (lambda x: x[:, torch.tensor([3, 0, 1, 2])], "its entries are picked by number"),
        (lambda x: x.index_select(1, torch.tensor([3, 1, 2, 0])), "are picked by number"),
        (lambda x: x[:, 1, None].expand(-1, 4), "one entry is picked by its number"),
        (lambda x: x + torch.arange(4.0).to(x), "it meets entries that always stay"),
    ],
)
def test_operations_that_need_all_units_say_so(
    step: Callable[[Tensor], Tensor], reason: str
) -> None:
    group = assert_exact(lively(around(step)), VECTORS).groups["a"]
    assert reason in (group.reason or "")
    assert (group.reason or "").endswith("in the forward of Network")


def test_the_reason_names_the_module_that_needs_all_units() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2))
    groups = assert_exact(lively(network), VECTORS).groups
    assert (groups["0"].reason or "").endswith("in '1' (Softmax)")


def test_what_is_tied_to_entries_of_the_input_says_so() -> None:
    network = Network(
        lambda net, x: net.out(torch.cat([x, net.a(x)], 1) * net.b(x)),
        a=nn.Linear(3, 1),
        b=nn.Linear(3, 4),
        out=nn.Linear(4, 2),
    )
    groups = assert_exact(lively(network), VECTORS).groups
    assert groups["b"].is_frozen
    assert groups["b"].reason


@pytest.mark.parametrize(
    ("step", "read"),
    [
        (lambda x: (x > 0).to(x).sum(1, keepdim=True), 1),
        (lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True), 1),
        (lambda x: x * x.sum(1, keepdim=True), 4),
        (lambda x: torch.cosine_similarity(x, x.tanh(), dim=1)[:, None], 1),
    ],
)
def test_sums_do_not_feel_units_that_are_zero(step: Callable[[Tensor], Tensor], read: int) -> None:
    groups = assert_exact(lively(around(step, read)), VECTORS).groups
    assert named(groups) == {"a": 4}


@pytest.mark.parametrize(
    ("step", "read"),
    [
        (lambda x: x[:, 1:3], 2),
        (lambda x: x[:, :-1], 5),
        (lambda x: x[:, -3:-1], 2),
        (lambda x: x.split(1, 1)[2], 1),
        (lambda x: x.tensor_split((1, 3), 1)[1], 2),
        (lambda x: torch.cat([x[:, 2:], x[:, :2]], 1), 6),
        (lambda x: x.diff(dim=1), 5),
        (lambda x: x.exp().sum(1, keepdim=True), 1),
        (lambda x: x * x.shape[1], 6),
        (lambda x: x.view(2, 2, 3).sum(1), 3),
        (lambda x: x.view(2, -1, 3).sum(1), 3),
        (lambda x: x.view(2, 3, -1).sum(1), 2),
        (lambda x: torch.outer(x.sum(0), x.sum(0))[:2], 6),
    ],
)
def test_numbers_written_into_forward_are_not_broken(
    step: Callable[[Tensor], Tensor], read: int
) -> None:
    network = lively(around(step, read, made=6))
    assert_exact(network, VECTORS, count=8, counts_macs=False)


def test_a_diagonal_over_channels() -> None:
    network = Network(
        lambda net, x: net.out(net.a(x).diagonal(dim1=1, dim2=2)),
        a=nn.Conv2d(3, 4, 1),
        out=nn.Linear(4, 2),
    )
    assert assert_exact(lively(network), IMAGES).groups["a"].is_frozen


def test_complex_numbers_have_a_dimension_more() -> None:
    network = around(lambda x: torch.view_as_real(torch.fft.fft(x, dim=1)).flatten(1), 8)
    assert "it passes through aten._fft_r2c" in (
        assert_exact(lively(network), VECTORS).groups["a"].reason or ""
    )


def test_a_network_of_single_units_has_nothing_to_prune() -> None:
    network = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid(), nn.Linear(1, 1), nn.Flatten(0))
    groups = assert_exact(lively(network), VECTORS).groups
    assert groups.prunable == ()
    assert groups["0"].reason == "it has a single unit"


def test_a_network_without_parameters() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Flatten())
    graph = discover(network, IMAGES)
    assert len(graph.groups) == 0
    assert graph.costs.costs(Policy()).params == 0
    assert len(prove(network, graph.groups, IMAGES).groups) == 0


def test_several_positional_inputs() -> None:
    network = Network(
        lambda net, x, y, scale: net.out(torch.relu(net.a(x) + net.b(y)) * scale),
        a=nn.Linear(3, 4),
        b=nn.Linear(5, 4),
        out=nn.Linear(4, 2),
    )
    other = drawn(2, 5)
    groups = assert_exact(lively(network), (VECTORS, other, 2.0)).groups
    assert places(groups) == {
        "a": (4, ["a.weight 0", "a.bias 0", "b.weight 0", "b.bias 0", "out.weight 1"])
    }


def test_inputs_by_name() -> None:
    network = Network(
        lambda net, *, x, mask=None, flag: net.out(net.a(x) * mask if flag else net.a(x)),
        a=nn.Linear(3, 4),
        out=nn.Linear(4, 2),
    )
    example = {"mask": torch.ones(2, 1, dtype=torch.float64), "x": VECTORS, "flag": True}
    assert named(assert_exact(lively(network), example).groups) == {"a": 4}


@dataclass
class Heads:
    small: Tensor
    large: Tensor | None = None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda small, large: (small, large),
        lambda small, large: {"small": small, "rest": [large, None, 3]},
        lambda small, large: Heads(small, large),
        lambda small, large: torch.cat([small, large], 1),
    ],
    ids=["tuple", "dict", "dataclass", "tensor"],
)
def test_every_output_stays_whole(wrap: Callable[[Tensor, Tensor], Any]) -> None:
    network = Network(
        lambda net, x: wrap(net.small(net.a(x).relu()), net.large(net.b(net.a(x)))),
        a=nn.Linear(3, 4),
        b=nn.Linear(4, 5),
        small=nn.Linear(4, 2),
        large=nn.Linear(5, 3),
    )
    groups = assert_exact(lively(network), VECTORS).groups
    assert named(groups) == {"a": 4, "b": 5}
    assert entries(groups, "a", "small.weight", 1) == column(4)
    assert groups["small"].reason == groups["large"].reason == "it makes the network's output"


def test_features_that_are_returned_stay_whole() -> None:
    network = Network(
        lambda net, x: (net.out(net.b(net.a(x))), net.a(x)),
        a=nn.Linear(3, 4),
        b=nn.Linear(4, 5),
        out=nn.Linear(5, 2),
    )
    groups = assert_exact(lively(network), VECTORS).groups
    assert named(groups) == {"b": 5}
    assert groups["a"].reason == "it makes the network's output"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_of_lower_precision_keep_their_type(dtype: torch.dtype) -> None:
    network = lively(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2)))
    plan = assert_exact(network.to(dtype), VECTORS.to(dtype), tolerance=1e-2)
    assert named(plan.groups) == {"0": 8, "2": 6}
    for policy in policies(plan.groups, 3):
        assert {each.dtype for each in plan.carve(policy).parameters()} == {dtype}


def test_frozen_parameters_are_pruned_and_stay_frozen() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2))
    network[0].requires_grad_(False)
    plan, _ = planned(lively(network), VECTORS)
    assert named(plan.groups) == {"0": 8, "1": 6}
    carved = plan.carve(Policy.from_keep_ratios({"0": 0.5, "1": 0.5}))
    assert [each.requires_grad for each in carved.parameters()] == [False] * 2 + [True] * 4


def test_parameters_that_forward_never_uses_stay_whole_and_count() -> None:
    network = Network(
        lambda net, x: net.out(net.a(x)),
        a=nn.Linear(3, 4),
        out=nn.Linear(4, 2),
        spare=nn.Linear(4, 7),
        extra=nn.Parameter(torch.ones(5, 5)),
    )
    plan = assert_exact(lively(network), VECTORS)
    assert named(plan.groups) == {"a": 4}
    carved = plan.carve(Policy.from_keep_ratios({"a": 0.5}))
    assert carved.spare.weight.shape == (7, 4)
    assert carved.extra.shape == (5, 5)


class Choosing(nn.Module):
    def __init__(self, rule: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.rule(x) else x


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: x.sum() > 0,
        lambda x: x.max().item() > 1,
        lambda x: len(x.nonzero()) > 3,
        lambda x: len(x[x > 0]) > 3,
        lambda x: torch.equal(x, x + 1),
        lambda x: len(x.unique()) > 3,
    ],
)
def test_a_forward_that_reads_values_is_refused_by_the_modules_name(
    rule: Callable[[Tensor], Any],
) -> None:
    network = nn.Sequential(nn.Linear(3, 4), Choosing(rule), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"'1' \(Choosing\) reads them"):
        discover(lively(network), VECTORS)


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: x.shape[1] > 3,
        lambda x: torch.arange(x.shape[0]).sum().item() > 0,
        lambda x: bool(torch.ones(3).any()),
    ],
)
def test_a_forward_that_reads_sizes_or_constants_is_not(rule: Callable[[Tensor], Any]) -> None:
    network = nn.Sequential(nn.Linear(3, 4), Choosing(rule), nn.Linear(4, 2))
    discover(lively(network), VECTORS)


def test_whole_numbers_of_the_input_may_be_read() -> None:
    network = Network(
        lambda net, x, lengths: net.out(net.a(x)[:, : int(lengths.max())].sum(1)),
        a=nn.Linear(3, 4),
        out=nn.Linear(4, 2),
    )
    tokens = drawn(2, 5, 3)
    example = (tokens, torch.tensor([5, 3]))
    assert named(assert_exact(lively(network), example, counts_macs=False).groups) == {"a": 4}


def test_a_run_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "LIMIT_S", 0.0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"given up after 0 s, in '0' \(Linear\); try a smaller"):
        discover(network.double(), VECTORS)


def test_what_comes_late_in_a_long_run_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "COARSE_S", 0.0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())
    groups = assert_exact(lively(network), IMAGES, counts_macs=False).groups
    assert groups.prunable == ()
    assert {group.name for group in groups} == {"0", "2"}
    for group in groups:
        assert re.fullmatch(
            rf"it passes through aten\.convolution in '{group.name}' \(Conv2d\)", group.reason or ""
        )
