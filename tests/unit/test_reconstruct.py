"""Reconstruction: least squares over what layers read, held against explicit systems."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria.l1 import L1
from autoprune.policy import Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by, score_groups
from autoprune.surgery.plan import Plan
from autoprune.surgery.reconstruct import LayerMoments, Moments, reconstruct
from autoprune.tracing.recorder import evaluation_mode
from tests.networks import ALL, Chain, Concat, Depthwise, Residual, built
from tests.reconstruction import (
    ALL_POSITIONS,
    LAYERS,
    Attention,
    Twice,
    Unsolvable,
    around,
    columns_of,
    halves,
    images,
    inputs_of,
    plan_of,
    reconstructed,
    solved_by_twin,
)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", LAYERS)
def test_a_kernel_is_the_solution_of_explicit_least_squares(name: str) -> None:
    network, x = around(LAYERS[name]())
    layer = network[2]
    plan = plan_of(network, x[:2])
    policy = Policy.from_keep_ratios({"0": 0.6, "2": 0.5})
    # Batches of unequal size: every position counts the same.
    moments = Moments.gather(network, plan.groups, [x[:11], x[11:]], positions=ALL_POSITIONS)
    new = reconstructed(plan, policy, moments)[2]
    kept = plan.kept_entries(policy)
    rows = columns_of(layer, network[:2](x))
    dense = rows @ layer.weight.double().numpy().reshape(6, -1).T
    dense = dense if layer.bias is None else dense + layer.bias.numpy()
    axis = -1 if isinstance(layer, nn.Linear) else 1
    outputs = layer(network[:2](x)).movedim(axis, -1).reshape(-1, 6)
    np.testing.assert_allclose(dense, outputs, atol=1e-4)
    read = rows if layer.bias is None else np.c_[rows, np.ones(len(rows))]
    np.testing.assert_allclose(
        moments.layers["2"].gram, read.T @ read / len(rows), rtol=1e-4, atol=1e-5
    )
    kernel, bias = solved_by_twin(layer, rows, kept["2.weight", 1], kept["2.weight", 0])
    assert new.weight.shape[:2] == (3, 5)
    np.testing.assert_allclose(new.weight.flatten(1), kernel, atol=1e-4)
    if bias is None:
        assert new.bias is None
    else:
        np.testing.assert_allclose(new.bias, bias, atol=1e-4)
    assert not torch.allclose(new.weight, plan.carve(policy)[2].weight, atol=1e-2)


def test_calls_of_a_layer_add_up() -> None:
    network, x = built(Twice)
    plan = plan_of(network, x)
    policy = Policy.from_keep_ratios({"a": 0.5})
    with inputs_of(network, ["b"]) as read:
        network(images(8))
    rows = np.concatenate([columns_of(network.b, each) for each in read["b"]])
    assert len(rows) == 2 * 8 * 36
    moments = Moments.gather(network, plan.groups, [images(8)], positions=ALL_POSITIONS)
    kept = plan.kept_entries(policy)["b.weight", 1]
    kernel, bias = solved_by_twin(network.b, rows, kept, np.ones(5, dtype=bool))
    new = reconstructed(plan, policy, moments).b
    np.testing.assert_allclose(new.weight.flatten(1), kernel, atol=1e-4)
    np.testing.assert_allclose(new.bias, bias, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_layers_that_lose_no_inputs_stay_bit_for_bit(kind: type[nn.Module]) -> None:
    network, x = built(kind)
    plan = plan_of(network, x)
    moments = Moments.gather(network, plan.groups, [x])
    for policy in (
        Policy(),
        *(Policy.from_keep_ratios({g.name: 0.5}) for g in plan.groups.prunable),
    ):
        kept, sliced = plan.kept_entries(policy), plan.carve(policy)
        new = reconstructed(plan, policy, moments)
        changed = {
            name
            for name, each in new.state_dict().items()
            if not torch.equal(each, sliced.state_dict()[name])
        }
        readers = {name for name in moments.layers if (f"{name}.weight", 1) in kept}
        assert changed == {f"{name}.{part}" for name in readers for part in ("weight", "bias")}


@pytest.mark.parametrize("positions", [3, ALL_POSITIONS])
@pytest.mark.parametrize("name", ["linear", "1x1, no bias", "3x3, stride, padding", "sequence"])
def test_channels_that_others_determine_are_not_missed(name: str, positions: int) -> None:
    network, x = around(LAYERS[name]())
    first = network[0]
    # Two copies, scaled, of channels that stay.
    for copied, source, factor in ((6, 0, 0.5), (7, 3, 2.0)):
        first.weight[copied] = factor * first.weight[source]
        first.bias[copied] = factor * first.bias[source]
    plan = plan_of(network, x[:2])
    scores = {group.name: np.arange(group.units, 0.0, -1.0) for group in plan.groups.prunable}
    plan = Plan(network, plan.groups, {"l1": scores})
    policy = Policy.from_keep_ratios({"0": 0.75})
    moments = Moments.gather(
        network, plan.groups, [images(64, 8).view(64, *x.shape[1:])], positions=positions
    )
    expected = network[:3](x)
    sliced = plan.carve(policy)[:3](x)
    outputs = reconstructed(plan, policy, moments)[:3](x)
    scale = expected.std()
    assert (sliced - expected).abs().max() > 0.5 * scale
    assert (outputs - expected).abs().max() < 5e-3 * scale


def test_a_constant_channel_moves_into_the_bias_at_any_scale() -> None:
    network, x = around(nn.Conv2d(8, 6, 1))
    network[0].weight[7] = 0.0
    network[0].bias[7] = 1000.0
    x = 1000 * x
    plan = plan_of(network, x[:2])
    scores = {group.name: np.arange(group.units, 0.0, -1.0) for group in plan.groups.prunable}
    plan = Plan(network, plan.groups, {"l1": scores})
    policy = Policy.from_keep_ratios({"0": 7 / 8})
    moments = Moments.gather(network, plan.groups, [x], positions=ALL_POSITIONS)
    new, old = reconstructed(plan, policy, moments)[2], network[2]
    expected = old.bias + 1000 * old.weight[:, 7, 0, 0]
    torch.testing.assert_close(new.bias, expected, rtol=1e-3, atol=1.0)
    torch.testing.assert_close(new.weight, old.weight[:, :7], rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", [*ALL, Attention, Twice])
def test_outputs_come_closer_to_the_dense_ones_on_inputs_not_seen(kind: type[nn.Module]) -> None:
    network, x = built(kind)
    plan = plan_of(network, x)
    policy = halves(plan)
    moments = Moments.gather(network, plan.groups, images(512).split(128))
    kept, sliced = plan.kept_entries(policy), plan.carve(policy)
    new = reconstructed(plan, policy, moments)
    with inputs_of(network, list(moments.layers)) as read:
        network(images(64, seed=11))
    for name, seen in read.items():
        layer = network.get_submodule(name)
        stay = torch.from_numpy(kept[f"{name}.weight", 1])
        outputs = torch.from_numpy(
            kept.get((f"{name}.weight", 0), np.ones(len(layer.weight), dtype=bool))
        )
        axis = -1 if isinstance(layer, nn.Linear) else 1
        errors = {"sliced": 0.0, "new": 0.0}
        for each in seen:
            expected = layer(each).movedim(axis, -1)[..., outputs]
            fewer = each.movedim(axis, -1)[..., stay].movedim(-1, axis)
            for form, carved in (("sliced", sliced), ("new", new)):
                found = carved.get_submodule(name)(fewer).movedim(axis, -1)
                errors[form] += float((found - expected).square().mean())
        assert errors["new"] < 0.95 * errors["sliced"], name


def test_solved_are_the_layers_that_read_prunable_channels() -> None:
    solved = {}
    for kind in (*ALL, Attention, Twice, Unsolvable):
        network, x = built(kind)
        solved[kind] = set(Moments.gather(network, plan_of(network, x).groups, [x]).layers)
    assert solved == {
        Chain: {"b", "hidden", "out"},
        Residual: {"one", "two", "out"},
        Depthwise: {"project", "out"},
        Concat: {"mix", "out"},
        Attention: {"qkv.0", "qkv.1", "qkv.2", "mix", "out"},
        Twice: {"b", "out"},
        Unsolvable: {"last"},
    }


def test_what_cannot_be_solved_stays_sliced() -> None:
    network, x = built(Unsolvable)
    plan = plan_of(network, x)
    policy, moments = halves(plan), Moments.gather(network, plan.groups, [x])
    kept = plan.kept_entries(policy)
    readers = {"squashing.weight", "grouped.weight", "one.weight"}
    assert {(name, 1) for name in readers} | {("up.weight", 0)} <= set(kept)
    assert ("made.parametrizations.weight.original", 1) in kept
    sliced = plan.carve(policy).state_dict()
    new = reconstructed(plan, policy, moments).state_dict()
    changed = {name for name in new if not torch.equal(new[name], sliced[name])}
    assert changed == {"last.weight", "last.bias"}


def test_a_layer_may_read_a_product_of_groups() -> None:
    network, x = built(Attention)
    plan = plan_of(network, x)
    readers = [
        group.name
        for group in plan.groups.prunable
        if any(each.tensor == "mix.weight" and each.role == "in" for each in group.slices)
    ]
    assert len(readers) == 2
    policy = Policy.from_keep_ratios(dict(zip(readers, (0.7, 0.5), strict=True)))
    kept = plan.kept_entries(policy)["mix.weight", 1]
    assert kept.sum() == 4  # two of three heads, two of four places
    x = images(32)
    with inputs_of(network, ["mix"]) as read:
        network(x)
    moments = Moments.gather(network, plan.groups, [x], positions=ALL_POSITIONS)
    kernel, bias = solved_by_twin(
        network.mix, columns_of(network.mix, read["mix"][0]), kept, np.ones(6, dtype=bool)
    )
    new = reconstructed(plan, policy, moments).mix
    np.testing.assert_allclose(new.weight, kernel, atol=1e-4)
    np.testing.assert_allclose(new.bias, bias, atol=1e-4)


def test_a_layer_that_its_owner_reads_stays_sliced() -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.attention(x, x, x, need_weights=False)[0])

    network = Owner().eval().requires_grad_(False)
    x = torch.randn(4, 5, 8)
    plan = plan_of(network, x)
    policy = halves(plan)
    assert ("attention.out_proj.weight", 1) in plan.kept_entries(policy)
    moments = Moments.gather(network, plan.groups, [x])
    assert "attention.out_proj" not in moments.layers
    sliced = plan.carve(policy).attention.out_proj.weight
    assert torch.equal(reconstructed(plan, policy, moments).attention.out_proj.weight, sliced)


@pytest.mark.parametrize("is_training", [False, True])
def test_nothing_but_the_carved_network_changes(is_training: bool) -> None:
    network, x = built(Residual)
    plan = plan_of(network, x)
    network.train(is_training)
    network.norm.train(not is_training)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    moments = Moments.gather(network, plan.groups, [images(16)])
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training == is_training
    assert network.norm.training != is_training
    assert not any(module._forward_pre_hooks for module in network.modules())
    grams = {name: each.gram.clone() for name, each in moments.layers.items()}
    policy = halves(plan)
    once = reconstructed(plan, policy, moments)
    again = reconstructed(plan, policy, moments)
    reconstruct(again, plan, policy, moments)
    for name, each in once.state_dict().items():
        assert torch.equal(each, again.state_dict()[name])
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])
    for name, gram in grams.items():
        assert torch.equal(moments.layers[name].gram, gram)


def test_a_model_that_fails_is_left_as_it_was() -> None:
    network, x = built(Chain)
    groups = plan_of(network, x).groups
    network.train()
    with pytest.raises(RuntimeError):
        Moments.gather(network, groups, [x, x[:, :2]])
    assert all(module.training for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_positions_are_drawn_by_the_seed_alone() -> None:
    network, x = built(Residual)
    groups = plan_of(network, x).groups
    first, same, other = (
        Moments.gather(network, groups, [images(4)], positions=5, seed=seed).layers["two"].gram
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    # Twenty of 256 positions: the moments have no more directions than that.
    assert np.linalg.matrix_rank(first.numpy(), tol=1e-5) == 20


def test_too_few_samples_and_dead_channels_give_finite_kernels() -> None:
    network, _ = built(Residual)
    network.stem.weight[[0, 5]] = 0.0
    network.stem.bias[[0, 5]] = -1.0
    plan = plan_of(network, images(2))
    scores = {group.name: np.arange(group.units, 0.0, -1.0) for group in plan.groups.prunable}
    plan = Plan(network, plan.groups, {"l1": scores})
    moments = Moments.gather(network, plan.groups, [images(1)], positions=2)
    for ratio in (1 / 8, 0.5, 0.9):
        policy = Policy.from_keep_ratios({"stem": ratio, "one": 0.6})
        new, sliced = reconstructed(plan, policy, moments), plan.carve(policy)
        assert all(each.isfinite().all() for each in new.state_dict().values())
        assert new.one.weight.abs().max() < 10
        # The first ratio keeps a dead channel alone: nothing but the bias can help.
        assert torch.equal(new.one.weight, sliced.one.weight) == (ratio == 1 / 8)
        assert not torch.equal(new.one.bias, sliced.one.bias)


def test_a_singular_system_gets_a_stronger_ridge_and_nan_none() -> None:
    # One eigenvalue is -0.001, more than the first ridge of 1e-4 lifts.
    gram = torch.tensor([[1.0, 1.001, 0.5], [1.001, 1.0, 0.5], [0.5, 0.5, 1.0]]).double()
    layer = LayerMoments(gram, torch.ones(3, 2).double(), kernel=1, has_bias=False)
    kept = np.array([True, True, False])
    solved = layer.solved(kept, None)
    # By symmetry (1.01 + 1.001) x = 0.5.
    torch.testing.assert_close(solved, torch.full((2, 2), 1 + 0.5 / 2.011).double())
    for place in ((0, 1), (slice(None), 2)):  # among kept inputs, or among removed ones
        broken = gram.clone()
        broken[place] = broken.T[place] = float("nan")
        layer = LayerMoments(broken, torch.ones(3, 2).double(), kernel=1, has_bias=False)
        assert layer.solved(kept, None) is None


def test_inputs_that_are_not_finite_leave_kernels_sliced() -> None:
    network, x = built(Chain)
    plan = plan_of(network, x)
    moments = Moments.gather(network, plan.groups, [torch.full_like(x, float("inf"))])
    new = reconstructed(plan, halves(plan), moments).state_dict()
    for name, each in plan.carve(halves(plan)).state_dict().items():
        assert torch.equal(new[name], each)


def test_the_largest_layers_are_left_out_where_memory_ends() -> None:
    network, x = built(Chain)
    plan = plan_of(network, x)
    # Bytes: b 8 * 55 * 59, hidden 8 * 65 * 75, out 8 * 11 * 14; 66,192 in all.
    for limit, left_out in ((66_192, ()), (66_191, ("hidden",)), (27_191, ("hidden", "b"))):
        moments = Moments.gather(network, plan.groups, [images(64)], limit_bytes=limit)
        assert moments.left_out == left_out
        assert set(moments.layers) == {"b", "hidden", "out"} - set(left_out)
        stored = (each.gram.nbytes + each.weight.nbytes for each in moments.layers.values())
        assert sum(stored) <= limit
        sliced, new = plan.carve(halves(plan)), reconstructed(plan, halves(plan), moments)
        for name in ("b", "hidden", "out"):
            is_sliced = torch.equal(
                new.get_submodule(name).weight, sliced.get_submodule(name).weight
            )
            assert is_sliced == (name in left_out)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mode_layout_dtype_and_gradients_survive(dtype: torch.dtype) -> None:
    network, _ = built(Residual)
    plan = plan_of(network, images(2))
    network.to(dtype).train().requires_grad_(True)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    plan = plan_by("l1", Evidence(network, plan.groups))
    moments = Moments.gather(network, plan.groups, [images(8).to(dtype)])
    new = plan.carve(halves(plan))
    parameters = dict(new.named_parameters())
    reconstruct(new, plan, halves(plan), moments)
    for name, each in new.named_parameters():
        assert each is parameters[name]
        assert each.dtype is dtype
        assert each.requires_grad
        assert each.grad_fn is None
    assert new.one.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(module.training for module in new.modules())
    # Sums in the number format of the model would be wrong in the third digit.
    with evaluation_mode(network), inputs_of(network, ["out"]) as read:
        network(images(8).to(dtype))
    rows = columns_of(network.out, read["out"][0].detach())
    gram = moments.layers["out"].gram[:-1, :-1]
    np.testing.assert_allclose(gram, rows.T @ rows / 8, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ALL)
def test_cuda_agrees_with_the_cpu(kind: type[nn.Module]) -> None:
    network, x = built(kind)
    plan = plan_of(network, x)
    twin = copy.deepcopy(network).cuda()
    expected = reconstructed(plan, halves(plan), Moments.gather(network, plan.groups, [images(64)]))
    scores = {"l1": score_groups(L1(), Evidence(network, plan.groups)).scores}
    moments = Moments.gather(twin, plan.groups, [images(64).cuda()])
    assert all(each.gram.is_cuda for each in moments.layers.values())
    found = reconstructed(Plan(twin, plan.groups, scores), halves(plan), moments)
    for name, each in found.state_dict().items():
        assert each.is_cuda
        torch.testing.assert_close(each.cpu(), expected.state_dict()[name], rtol=1e-3, atol=1e-3)
