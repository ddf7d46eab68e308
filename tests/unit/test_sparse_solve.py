"""Sparse kernels that are solved, held against one inversion for every weight that leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoprune.surgery.reconstruct import LayerMoments
from autoprune.surgery.sparse_solve import solve_sparse

WEIGHTS = 22
BOTH = pytest.mark.parametrize("is_exact", [True, False])


def layer_of(*, has_bias: bool = False, dead: tuple[int, ...] = (), seed: int = 0) -> LayerMoments:
    """A layer of 22 inputs that mostly follow from eight numbers, and of five outputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 8, generator=generator) @ torch.randn(8, WEIGHTS, generator=generator)
    x = (x + torch.randn(x.shape, generator=generator) + 1.0).double()
    x[:, list(dead)] = 0.0
    if has_bias:
        x = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)
    weight = torch.randn(x.shape[1], 5, generator=generator).double()
    return LayerMoments(x.T @ x / len(x), weight, kernel=1, has_bias=has_bias)


def damped(layer: LayerMoments) -> Tensor:
    """The moments and a ridge, of which the bias has none."""
    weights = len(layer.gram) - int(layer.has_bias)
    ridge = torch.zeros(len(layer.gram)).double()
    ridge[:weights] = 0.01 * layer.gram.diagonal()[:weights].mean()
    return layer.gram + torch.diag(ridge)


def random_mask(layer: LayerMoments, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(layer.weight.T.shape, generator=generator) < 0.5
    mask[:, len(layer.gram) - int(layer.has_bias) :] = True
    return mask


def error(layer: LayerMoments, kernel: Tensor) -> float:
    change = kernel - layer.weight.T
    return float(((change @ layer.gram) * change).sum())


def exact(layer: LayerMoments, mask: Tensor) -> Tensor:
    """The best kernel for a mask: a system for every row."""
    system, kernel = damped(layer), torch.zeros_like(layer.weight.T)
    for row, weight, kept in zip(kernel, layer.weight.T, mask, strict=True):
        owed = system[kept][:, ~kept] @ weight[~kept]
        row[kept] = weight[kept] + torch.linalg.solve(system[kept][:, kept], owed)
    return kernel


def one_by_one(layer: LayerMoments, keep: Tensor) -> Tensor:
    """The slow twin: for every input, the inverse moments of it and of those behind it."""
    system, kernel = damped(layer), layer.weight.T.clone()
    for j in range(len(system) - int(layer.has_bias)):
        inverse = torch.linalg.inv(system[j:, j:])
        for row in range(len(kernel)):
            if not keep[row, j]:
                kernel[row, j:] -= kernel[row, j].clone() * inverse[:, 0] / inverse[0, 0]
    return kernel


def check(found: Tensor | None, expected: Tensor, keep: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert (found[~keep] == 0.0).all()


def test_by_hand() -> None:
    # Moments [[1,1],[1,3]] have a mean of 2 on their diagonal, so λ = 0.02. Without the first
    # weight the second takes 1/3.02 of it on; without the second nothing is behind it.
    gram = torch.tensor([[1.0, 1.0], [1.0, 3.0]]).double()
    layer = LayerMoments(gram, torch.tensor([[3.02, 3.02], [1.0, 1.0]]).double(), 1, False)
    keep = torch.tensor([[False, True], [True, False]])
    expected = torch.tensor([[0.0, 2.0], [3.02, 0.0]]).double()
    check(solve_sparse(layer, keep, is_exact=False), expected, keep)
    # Exactly, the first makes up for the second as well: 1 of 1.02 that it is multiplied with.
    expected[1, 0] = 3.02 + 1 / 1.02
    check(solve_sparse(layer, keep), expected, keep)


@pytest.mark.parametrize("block", [1, 5, 7, 128])
@pytest.mark.parametrize("has_bias", [False, True])
def test_it_agrees_with_the_slow_twin(has_bias: bool, block: int) -> None:
    layer = layer_of(has_bias=has_bias)
    keep = random_mask(layer)
    found = solve_sparse(layer, keep, is_exact=False, block=block)
    check(found, one_by_one(layer, keep), keep)


@pytest.mark.parametrize("has_bias", [False, True])
def test_rows_are_solved_exactly(has_bias: bool) -> None:
    layer = layer_of(has_bias=has_bias)
    keep = random_mask(layer)
    check(solve_sparse(layer, keep, is_exact=True), exact(layer, keep), keep)


def test_rows_are_solved_exactly_where_few_weights_stay() -> None:
    """A third of m k³ against four times 22³ + 22² m: all of 5 rows, at most 18 inputs of 400."""
    layer = layer_of()
    wide = replace(layer, weight=layer.weight[:, :1].repeat(1, 400))
    for made, kept, is_exact in ((layer, 22, True), (wide, 16, True), (wide, 20, False)):
        keep = torch.zeros(made.weight.T.shape, dtype=torch.bool)
        keep[:, torch.arange(kept) * 7 % WEIGHTS] = True
        found = solve_sparse(made, keep)
        assert found is not None
        assert torch.equal(found, solve_sparse(made, keep, is_exact=is_exact))  # type: ignore[arg-type]
        if kept < WEIGHTS:
            assert not torch.equal(found, solve_sparse(made, keep, is_exact=not is_exact))  # type: ignore[arg-type]


@pytest.mark.parametrize("has_bias", [False, True])
def test_errors_are_near_the_smallest_and_far_below_masking(has_bias: bool) -> None:
    for seed in range(4):
        layer = layer_of(has_bias=has_bias, seed=seed)
        mask = random_mask(layer, seed + 10)
        solved = solve_sparse(layer, mask, is_exact=False)
        assert solved is not None
        best, masked = exact(layer, mask), layer.weight.T * mask
        assert error(layer, best) < error(layer, solved) < 3 * error(layer, best)
        assert error(layer, solved) < 0.8 * error(layer, masked)


@BOTH
def test_nothing_changes_where_everything_stays(is_exact: bool) -> None:
    layer = layer_of(has_bias=True)
    keep = torch.ones(5, WEIGHTS + 1, dtype=torch.bool)
    kernel = solve_sparse(layer, keep, is_exact=is_exact)
    assert kernel is not None
    assert torch.equal(kernel, layer.weight.T)


@BOTH
def test_results_repeat_and_nothing_given_changes(is_exact: bool) -> None:
    layer = layer_of(has_bias=True)
    gram, weight = layer.gram.clone(), layer.weight.clone()
    keep = random_mask(layer)
    keep[:, -1] = False  # the bias stays all the same
    before = keep.clone()
    once, again = (solve_sparse(layer, keep, is_exact=is_exact) for _ in range(2))
    assert once is not None
    assert again is not None
    assert torch.equal(once, again)
    assert (once[:, -1] != 0.0).all()
    assert (once[:, -1] != weight[-1]).any()
    for given, earlier in ((layer.gram, gram), (layer.weight, weight), (keep, before)):
        assert torch.equal(given, earlier)


@BOTH
def test_dead_inputs_change_nothing_else(is_exact: bool) -> None:
    dead = [0, 3, 21]
    for places in (dead, list(range(WEIGHTS))):
        layer = layer_of(has_bias=True, dead=tuple(places))
        mask = random_mask(layer)
        kernel = solve_sparse(layer, mask, is_exact=is_exact)
        assert kernel is not None
        torch.testing.assert_close(kernel[:, places], (layer.weight.T * mask)[:, places])


@BOTH
def test_moments_that_are_not_finite_give_nothing(is_exact: bool) -> None:
    layer = layer_of()
    gram = layer.gram.clone()
    gram[3, 4] = gram[4, 3] = float("nan")
    broken = replace(layer, gram=gram)
    assert solve_sparse(broken, random_mask(layer), is_exact=is_exact) is None


@pytest.mark.parametrize("has_bias", [False, True])
def test_inverses_are_of_the_moments_and_a_hundredth_of_their_mean(has_bias: bool) -> None:
    layer = layer_of(has_bias=has_bias)
    gram = layer.gram.clone()
    torch.testing.assert_close(layer.inverse(), torch.linalg.inv(damped(layer)))
    assert torch.equal(layer.gram, gram)


@pytest.mark.parametrize("keep", [torch.ones(5, 21, dtype=torch.bool), torch.ones(5, 22)])
def test_masks_of_another_form_are_refused(keep: Tensor) -> None:
    with pytest.raises(ValueError, match=r"keep must be boolean, of shape \(5, 22\)"):
        solve_sparse(layer_of(), keep)
