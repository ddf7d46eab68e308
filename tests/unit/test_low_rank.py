"""Low rank: two layers for one, against the singular value decomposition and least squares."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import PolicyError
from autoprune.policy import LayerDecision, Policy
from autoprune.surgery.folding import fold
from autoprune.surgery.low_rank import expanded, expanded_pairs, factorise
from autoprune.surgery.plan import Plan
from autoprune.surgery.reconstruct import Moments
from tests.networks import Depthwise, built
from tests.reconstruction import plan_of

LAYERS = {
    "linear": lambda: nn.Linear(6, 5),
    "linear without bias": lambda: nn.Linear(6, 5, bias=False),
    "conv1d": lambda: nn.Conv1d(6, 5, 1, stride=2),
    "conv2d": lambda: nn.Conv2d(6, 5, 1, stride=(1, 2), padding=1, bias=False),
    "conv2d, reflected": lambda: nn.Conv2d(6, 5, 1, padding=1, padding_mode="reflect"),
    "conv3d": lambda: nn.Conv3d(6, 5, 1, stride=2),
}


def _around(name: str) -> tuple[nn.Sequential, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(LAYERS[name]()).eval().requires_grad_(False)
    spatial = 0 if name.startswith("linear") else int(name[4])
    x = torch.randn(3, 6, *[4] * spatial, generator=torch.Generator().manual_seed(1))
    return network, x


@pytest.mark.parametrize("name", LAYERS)
def test_at_full_rank_nothing_changes(name: str) -> None:
    network, x = _around(name)
    expected = network(x)
    factorise(network, {"0": 5})
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(network[0], nn.Sequential)
    assert network[0][0].bias is None


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rank", [1, 3])
def test_the_kernel_is_the_truncated_svd(name: str, rank: int) -> None:
    network, _ = _around(name)
    kernel = network[0].weight.flatten(1)
    left, values, right = torch.linalg.svd(kernel, full_matrices=False)
    best = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    bias = network[0].bias
    factorise(network, {"0": rank})
    first, second = network[0]
    assert first.weight.shape[0] == second.weight.shape[1] == rank
    product = second.weight.flatten(1) @ first.weight.flatten(1)
    torch.testing.assert_close(product, best, atol=1e-5, rtol=1e-4)
    if bias is not None:
        assert torch.equal(second.bias, bias)


class Mixed(nn.Module):
    """A linear layer and a 1×1 convolution that read pruned groups, with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 10, 1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.hidden = nn.Linear(10, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.point(torch.relu(self.stem(x)))))
        return self.out(torch.relu(self.hidden(x.mean((2, 3)))))


def _mixed() -> tuple[nn.Module, Tensor, Plan]:
    network, example = built(Mixed)
    plan = plan_of(network, example)
    x = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(7)) + 0.5
    return network, x, plan


def _reads(network: nn.Module, name: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = network.get_submodule(name).register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    network(x)
    hook.remove()
    rows = seen[0] if seen[0].dim() == 2 else seen[0].movedim(1, -1)
    return rows.flatten(0, -2).double()


@pytest.mark.parametrize("keep_ratio", [1.0, 0.6])
@pytest.mark.parametrize("name", ["point", "hidden"])
def test_with_moments_the_outputs_are_the_closest(name: str, keep_ratio: float) -> None:
    network, x, plan = _mixed()
    moments = Moments.gather(network, plan.groups, [x], positions=64)
    policy = Policy.from_keep_ratios({"stem": keep_ratio, "point": keep_ratio})
    carved = plan.carve(policy)
    layer = carved.get_submodule(name)
    kernel = layer.weight.flatten(1).double()
    kept = plan.kept_entries(policy).get((f"{name}.weight", 1))
    # The moments are those of the dense network.
    rows = _reads(network, name, x)
    rows = rows if kept is None else rows[:, torch.from_numpy(kept)]
    assert rows.shape[1] == kernel.shape[1]
    bias = 0.0 if layer.bias is None else layer.bias.double()
    wanted = rows @ kernel.T + bias
    # Reduced-rank regression: the leading directions of the outputs themselves.
    means = wanted.mean(0) if layer.bias is not None else torch.zeros(len(kernel)).double()
    _, _, right = torch.linalg.svd(wanted - means, full_matrices=False)
    best = (wanted - means) @ right[:2].T @ right[:2] + means
    least = float((best - wanted).square().mean())
    errors = {}
    for title, own in (("svd", None), ("moments", moments)):
        twin = copy.deepcopy(carved)
        factorise(twin, {name: 2}, moments=own, kept=plan.kept_entries(policy))
        shape = (len(rows), -1, *[1] * (layer.weight.dim() - 2))
        found = twin.get_submodule(name)(rows.float().view(shape)).double().flatten(1)
        errors[title] = float((found - wanted).square().mean())
    assert errors["moments"] == pytest.approx(least, rel=2e-3)
    assert errors["svd"] > least * 1.05


def test_form_and_random_state_stay() -> None:
    network, x = built(Depthwise)
    network = network.to(torch.bfloat16).to(memory_format=torch.channels_last).train()
    network.requires_grad_(True)
    state = torch.get_rng_state()
    factorise(network, {"expand": 2, "project": 3, "out": 1})
    assert torch.equal(torch.get_rng_state(), state)
    for name, rank in (("expand", 2), ("project", 3), ("out", 1)):
        pair = network.get_submodule(name)
        assert len(pair) == 2
        for each in pair:
            assert each.training
            assert each.weight.dtype is torch.bfloat16
            assert each.weight.requires_grad
            assert rank in each.weight.shape[:2]
    assert network.depth.weight.shape == (8, 1, 3, 3)
    assert network(x.to(torch.bfloat16)).shape == (2, 3)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"depth": 1}, "'depth' cannot become two of lower rank"),
        ({"norm": 1}, "'norm' cannot become two of lower rank"),
        ({"expand": 4}, "rank of layer 'expand' must be 1 to 3, given: 4"),
        ({"expand": 0}, "must be 1 to 3, given: 0"),
    ],
)
def test_other_layers_and_ranks_are_refused(ranks: dict[str, int], message: str) -> None:
    network, _ = built(Depthwise)
    with pytest.raises(PolicyError, match=message):
        factorise(network, ranks)


def test_decisions_and_pairs_name_the_new_layers() -> None:
    decisions = {"a": LayerDecision(4, 8, 3), "b": LayerDecision(2), "c": LayerDecision(rank=1)}
    assert expanded(decisions) == {
        "a.0": LayerDecision(4, 8),
        "a.1": LayerDecision(4, 8),
        "b": LayerDecision(2),
        "c.0": LayerDecision(),
        "c.1": LayerDecision(),
    }
    pairs = [("a", "norm"), ("b", "other")]
    assert expanded_pairs(pairs, decisions) == [("a.1", "norm"), ("b", "other")]


def test_the_second_layer_folds_with_the_batch_norm_behind() -> None:
    network, x, _ = _mixed()
    factorise(network, {"point": 4})
    decisions = {"point": LayerDecision(rank=4)}
    folded = fold(network, expanded_pairs([("point", "norm")], decisions))
    assert isinstance(folded.norm, nn.Identity)
    torch.testing.assert_close(folded(x), network(x), atol=1e-5, rtol=1e-4)
