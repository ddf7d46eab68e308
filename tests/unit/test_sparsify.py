"""Single weights that leave: which ones, how many, and what the tables say of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoprune.errors import PolicyError
from autoprune.graph.cost import CostTable
from autoprune.graph.cost_row import CostRow
from autoprune.graph.extent import Extent
from autoprune.graph.group import GroupTable
from autoprune.graph.layer import Layer
from autoprune.pattern import Pattern
from autoprune.policy import LayerDecision, Policy
from autoprune.surgery.sparsify import (
    Sparsity,
    kernel_of,
    mask_of,
    matrix_of,
    settle,
    sparse_kernels,
)

PATTERNS = [None, "2:4", "4:8", "1:3", "4x1", "1x4", "2x3"]
SHAPES = st.sampled_from([(8, 8), (5, 7), (3, 4, 3, 3), (6, 5, 2), (1, 1), (2, 9)])


def kernel(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.01


def decision(pattern: str | None, share: float) -> LayerDecision:
    is_n_of_m = Pattern.parse(pattern).is_n_of_m
    return LayerDecision(keep_ratio=1.0 if is_n_of_m else share, pattern=pattern)


def test_of_single_weights_the_most_salient_stay() -> None:
    saliency = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.7]])
    kept = mask_of(saliency, LayerDecision(keep_ratio=0.5))
    assert kept.tolist() == [[False, True, False], [True, False, True]]


def test_of_every_four_input_channels_two_stay() -> None:
    # One output, four input channels at two places: M runs along channels, not along places.
    saliency = torch.tensor([[[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]]])
    kept = mask_of(saliency, LayerDecision(pattern="2:4"))
    assert kept.tolist() == [[[False, True], [False, True], [True, False], [True, False]]]


def test_blocks_stay_or_leave_as_a_whole() -> None:
    saliency = torch.tensor([[1.0, 5.0], [1.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    kept = mask_of(saliency, LayerDecision(keep_ratio=0.5, pattern="2x1"))
    # Means of the blocks: 1, 2.5 above, 4, 0 below.
    assert kept.tolist() == [[False, True], [False, True], [True, False], [True, False]]


def test_of_equal_saliencies_the_earlier_stay() -> None:
    assert mask_of(torch.ones(2, 2), LayerDecision(keep_ratio=0.5)).tolist() == [
        [True, True],
        [False, False],
    ]
    assert mask_of(torch.ones(1, 4), LayerDecision(pattern="2:4")).tolist() == [
        [True, True, False, False]
    ]


@given(SHAPES, st.sampled_from(PATTERNS), st.floats(0.01, 0.99), st.integers(0, 9))
def test_as_many_stay_as_the_tables_count(
    shape: tuple[int, ...], pattern: str | None, share: float, seed: int
) -> None:
    saliency, asked = kernel(shape, seed), decision(pattern, share)
    kept = mask_of(saliency, asked)
    stored, index = asked.shape.stored(asked.keep_ratio, saliency.numel(), len(saliency))
    assert kept.shape == saliency.shape
    if asked.shape.is_blocks:  # those at the edges are stored whole
        assert 1 <= int(kept.sum()) <= stored
    else:
        assert int(kept.sum()) == stored
    costs = table(shape).costs(Policy(layers={"conv": asked}))
    assert costs.params == stored
    assert costs.macs == saliency.numel()
    whole = 4 * saliency.numel()
    assert costs.size_bytes == min(whole, 4 * stored + -(-index // 8))


@given(SHAPES, st.sampled_from(PATTERNS), st.floats(0.05, 0.95))
def test_what_leaves_early_does_not_come_back(
    shape: tuple[int, ...], pattern: str | None, share: float
) -> None:
    saliency, asked = kernel(shape), decision(pattern, share)
    masks = [mask_of(saliency, asked, part) for part in (0.0, 0.3, 0.7, 1.0)]
    assert masks[0].all()
    for earlier, later in itertools.pairwise(masks):
        assert not (later & ~earlier).any()


def table(shape: tuple[int, ...]) -> CostTable:
    """Return the costs of one kernel of 32 bits, whose every weight is used once."""
    outputs, rest = shape[0], int(np.prod(shape[1:]))
    rows = [CostRow("conv", rest, (Extent(outputs),), macs=1, params=1, item_bytes=4)]
    return CostTable(rows, GroupTable([], layers=[Layer("conv", ("weight",), (Extent(outputs),))]))


def test_bytes_by_hand() -> None:
    costs = table((8, 8)).costs

    def size(**asked: object) -> int:
        return costs(Policy(layers={"conv": LayerDecision(**asked)})).size_bytes  # type: ignore[arg-type]

    # 64 weights: 16 of 4 bytes and a bit for each; 32 and 2 bits each; 4 blocks of 4 and 16 bits.
    assert size(keep_ratio=0.25) == 16 * 4 + 8
    assert size(pattern="2:4") == 32 * 4 + 8
    assert size(keep_ratio=0.25, pattern="4x1") == 16 * 4 + 2
    # 8 bits: 16 bytes, 8 of marks, 8 scales of 4.
    assert size(keep_ratio=0.25, weight_bits=8) == 16 + 8 + 8 * 4
    # Whole where an index would cost more than it saves.
    assert size(keep_ratio=0.99) == 64 * 4
    assert costs(Policy(layers={"conv": LayerDecision(keep_ratio=0.25)})).bitops == 64 * 32 * 32


def test_the_matrix_of_a_kernel_and_back() -> None:
    for shape in ((4, 3), (4, 3, 2), (4, 3, 2, 5)):
        given = kernel(shape)
        assert torch.equal(kernel_of(matrix_of(given), given.shape), given)
    assert matrix_of(torch.arange(8.0).reshape(1, 2, 2, 2)).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]


def test_what_leaves_becomes_zero() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    before = network[0].weight.detach().clone()
    masks = {"0.weight": torch.tensor([[True, False], [False, True]])}
    settle(network, masks)
    assert torch.equal(network[0].weight, before * masks["0.weight"])


def test_kernels_that_lose_weights_are_those_of_their_layers() -> None:
    cell = Layer("lstm", ("weight_ih", "weight_hh"), (Extent(2), Extent(2)), reads=False)
    groups = GroupTable([], layers=[Layer("", ("weight",), (Extent(2),)), cell])
    decision = LayerDecision(keep_ratio=0.5)
    policy = Policy(layers={"lstm": decision, "": decision})
    found = sparse_kernels(groups, policy)
    assert found == dict.fromkeys(("weight", "lstm.weight_ih", "lstm.weight_hh"), decision)
    assert sparse_kernels(groups, Policy(layers={"lstm": LayerDecision(8, 32)})) == {}


def test_masks_by_other_saliencies_leave_the_chosen_ones_alone() -> None:
    decisions = {"conv.weight": LayerDecision(keep_ratio=0.5)}
    sparsity = Sparsity(decisions, {"conv.weight": torch.tensor([[2.0], [1.0]])})
    other = sparsity.masks(saliencies={"conv.weight": torch.tensor([[1.0], [2.0]])})
    assert other["conv.weight"].tolist() == [[False], [True]]
    assert sparsity.chosen["conv.weight"].tolist() == [[True], [False]]


@pytest.mark.parametrize("text", ["4:2", "0:4", "1:65", "1x1", "0x4", "65x1", "2-4", "", "2:4:8"])
def test_patterns_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=r"pattern must be N:M .* or a block RxC"):
        LayerDecision(keep_ratio=0.5, pattern=text)


def test_a_pattern_says_its_share() -> None:
    assert LayerDecision(pattern="2:4").keep_ratio == 0.5
    assert LayerDecision(keep_ratio=0.5, pattern="2:4") == LayerDecision(pattern="2:4")
    with pytest.raises(PolicyError, match=r"of 2:4 the share 0\.5 is kept, given: 0\.25"):
        LayerDecision(keep_ratio=0.25, pattern="2:4")
    assert LayerDecision(pattern="4x1") == LayerDecision()
    assert not LayerDecision(pattern="4x1").is_sparse
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(PolicyError, match="keep_ratio must be in"):
            LayerDecision(keep_ratio=share)


def test_policies_of_single_weights_survive_json() -> None:
    layers = {"a": LayerDecision(pattern="2:4"), "b": LayerDecision(8, 8, None, 0.3, "4x1")}
    policy = Policy(layers=layers)
    assert policy.to_json()["layers"]["a"] == {"keep_ratio": 0.5, "pattern": "2:4"}
    assert Policy.from_json(policy.to_json()) == policy
    assert Policy.from_json({**Policy().to_json(), "layers": {"a": {"pattern": "2:4"}}}).layers[
        "a"
    ] == LayerDecision(pattern="2:4")


def test_layers_say_what_cannot_leave() -> None:
    composed = Layer("lstm", ("weight_ih", "weight_hh"), (Extent(8), Extent(8)), reads=False)
    composed.check(LayerDecision(keep_ratio=0.5))
    with pytest.raises(PolicyError, match=r"cannot leave in a pattern \(2:4\)"):
        composed.check(LayerDecision(pattern="2:4"))
    shared = Layer("tied", ("weight",), (Extent(8),), reason="its kernels are shared")
    with pytest.raises(PolicyError, match="must all stay: its kernels are shared"):
        shared.check(LayerDecision(keep_ratio=0.5))
    matrix = Layer("fc", ("weight",), (Extent(8),), inputs=Extent(8))
    both = LayerDecision(rank=2, keep_ratio=0.5)
    assert matrix.in_use(both, {}) == LayerDecision(rank=2)
    assert matrix.in_use(LayerDecision(rank=8, keep_ratio=0.5), {}) == LayerDecision(keep_ratio=0.5)
