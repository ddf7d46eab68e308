"""Small weights leave and others grow: SET, RigL, GraNet, against slow twins."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.policy import LayerDecision
from autoprune.recoveries._regrowth import regrown
from autoprune.surgery.sparsify import mask_of, matrix_of
from tests.one_layer import KERNEL, bare, hooks, layer, rows, training_of


def slow_regrowth(weights: Tensor, mask: Tensor, growth: Tensor, gone: int) -> Tensor:
    """Drop the smallest `gone` of what is there and let as many of the rest grow, one by one."""
    there = {int(place) for place in mask.flatten().nonzero()}
    by_size = sorted(there, key=lambda place: abs(float(weights.flatten()[place])))
    survivors = there - set(by_size[:gone])
    others = set(range(mask.numel())) - survivors
    by_growth = sorted(others, key=lambda place: -float(growth.flatten()[place]))
    expected = torch.zeros(mask.numel(), dtype=torch.bool)
    expected[[*survivors, *by_growth[:gone]]] = True
    return expected.view_as(mask)


def test_what_grows_is_what_a_slow_twin_lets_grow() -> None:
    decision = LayerDecision(keep_ratio=0.4)
    for seed in range(10):
        weights, growth = rows(seed, 5, 10), rows(100 + seed, 5, 10).abs()
        mask = mask_of(rows(200 + seed, 5, 10), decision)
        fast = regrown(weights * mask, mask, growth, decision, drop=0.3)
        assert torch.equal(fast, slow_regrowth(weights, mask, growth, 6))
        assert torch.equal(regrown(weights, mask, growth, decision, drop=0.0), mask)


def test_in_groups_weights_grow_where_others_were_dropped() -> None:
    decision = LayerDecision(pattern="2:4")
    weights, growth = rows(0, 6, 10), rows(1, 6, 10).abs()
    mask = mask_of(weights.abs(), decision)
    changed = regrown(weights, mask, growth, decision, drop=0.25)
    kept = mask_of(torch.where(mask, weights.abs(), -1), LayerDecision(keep_ratio=27 / 60))
    assert int(mask.sum()) == 36
    for row in range(6):
        for start in range(0, 10, 4):
            group = slice(start, start + 4)
            survivors = kept[row, group]
            left = int(mask[row, group].sum()) - int(survivors.sum())
            worth = growth[row, group].masked_fill(survivors, -1)
            expected = survivors.clone()
            expected[worth.argsort(descending=True)[:left]] = True
            assert torch.equal(changed[row, group], expected)


def test_blocks_are_dropped_and_grow_as_a_whole() -> None:
    decision = LayerDecision(keep_ratio=0.5, pattern="2x2")
    sizes = torch.tensor([[9.0, 8, 7, 1], [0, 0, 0, 0]])
    growth = torch.tensor([[0.0, 0, 0, 1], [3, 2, 1, 4]])
    blocks = [each.repeat_interleave(2, 0).repeat_interleave(2, 1) for each in (sizes, growth)]
    mask = blocks[0] > 0
    changed = regrown(blocks[0], mask, blocks[1], decision, drop=0.5)
    expected = torch.tensor([[True, True, False, False], [True, False, False, True]])
    assert torch.equal(matrix_of(changed)[::2, ::2], expected)
    assert int(changed.sum()) == 16


def test_at_random_as_many_grow_as_are_dropped() -> None:
    weights = torch.arange(20.0, 0.0, -1.0).view(4, 5)
    decision = LayerDecision(keep_ratio=0.5)
    grown = set()
    for seed in range(6):
        masking = hooks(
            bare("set", every=2, drop=0.4), training_of(layer(weights), decision, seed=seed)
        )
        assert torch.equal(masking.masks[KERNEL], weights > 10)
        masking.after(0)
        assert torch.equal(masking.masks[KERNEL], weights > 10)
        masking.after(1)
        mask = masking.masks[KERNEL]
        assert int(mask.sum()) == 10
        assert bool(mask[weights > 14].all())  # six of ten stay
        grown.add(tuple(mask.flatten().tolist()))
        masking.after(9)  # the last step changes nothing
        assert torch.equal(masking.masks[KERNEL], mask)
    assert len(grown) > 3


def test_rigl_grows_the_largest_gradients_from_zero_without_momentum() -> None:
    weights, gradient = rows(0, 4, 5), rows(1, 4, 5)
    network = layer(weights)
    masking = hooks(
        bare("rigl", every=2, until=1.0, drop=0.5),
        training_of(network, LayerDecision(keep_ratio=0.5), steps=8),
    )
    kernel, mask = network.get_parameter(KERNEL), masking.masks[KERNEL].clone()
    kernel.grad = gradient.clone()
    masking.optimizer.step()  # fills the momentum, at places that left too
    masking.after(0)
    kernel.grad = gradient.clone()
    masking.see(0)
    assert torch.equal(kernel.grad, gradient * mask)
    before = kernel.detach().clone()
    kernel.grad = gradient.clone()
    masking.see(1)
    # Half of ten weights, by the cosine after 2 of 8 steps: 0.427 of them, so that 5.73 → 6 stay.
    expected = slow_regrowth(before, mask, gradient.abs(), 4)
    assert torch.equal(masking.masks[KERNEL], expected)
    assert torch.equal(kernel.detach(), before * (expected & mask))
    assert torch.equal(kernel.grad, gradient * expected)
    momentum = masking.optimizer.state[kernel]["momentum_buffer"]
    assert torch.equal(momentum != 0, expected)


def test_granet_prunes_by_the_cubic_share_and_regenerates() -> None:
    weights, gradient = rows(0, 4, 5), rows(1, 4, 5)
    network = layer(weights)
    training = training_of(network, LayerDecision(keep_ratio=0.2), steps=8)
    masking = hooks(bare("granet", every=4, until=1.0, drop=0.5), training)
    kernel = network.get_parameter(KERNEL)
    kernel.grad = gradient.clone()
    masking.see(2)
    assert bool(masking.masks[KERNEL].all())
    masking.see(3)
    # Of 16 that leave 0.875 have left: 6 are there. A quarter of them is dropped: 4.5 → 4 stay.
    pruned = mask_of(weights.abs(), LayerDecision(keep_ratio=0.3))
    expected = slow_regrowth(weights, pruned, gradient.abs(), 2)
    assert torch.equal(masking.masks[KERNEL], expected)
    masking.see(7)  # the last time nothing grows
    left = mask_of(kernel.detach().abs(), LayerDecision(keep_ratio=0.2))
    assert torch.equal(masking.masks[KERNEL], left)
