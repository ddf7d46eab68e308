"""What removing the inputs of a layer does: slow twins of the criteria that solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tests.reconstruction import columns_of

Errors = Callable[[Sequence[int]], float]
"""The error when these units are gone."""


@torch.no_grad()
def correlated(units: int, latent: int = 6) -> tuple[nn.Module, Tensor]:
    """Units that see few directions, so that others know most of what each of them says."""
    generator = torch.Generator().manual_seed(8)
    network = nn.Sequential(nn.Linear(latent, units), nn.ReLU(), nn.Linear(units, 10)).eval()
    for each in network.requires_grad_(False).parameters():
        each.normal_(generator=generator)
    return network, torch.randn(400, latent, generator=generator)


def zeroed(layer: nn.Module, x: Tensor, columns: np.ndarray) -> Errors:
    """The slow twin of errors without correction: inputs are zeroed, and the layer runs."""
    axis = -1 if isinstance(layer, nn.Linear) else 1
    dense = layer(x).movedim(axis, -1).flatten(0, -2).double()

    def error(units: Sequence[int]) -> float:
        kept = x.movedim(axis, -1).clone()
        kept[..., columns[list(units)].flatten()] = 0.0
        outputs = layer(kept.movedim(-1, axis)).movedim(axis, -1).flatten(0, -2)
        return float((outputs - dense).square().sum() / dense.square().sum())

    return error


def refitted(layer: nn.Module, x: Tensor, columns: np.ndarray) -> Errors:
    """The slow twin of corrected errors: least squares over rows of inputs, and of the ridge."""
    rows = columns_of(layer, x)
    weight = layer.weight.double().numpy().reshape(len(layer.weight), -1).T
    ridge = 0.01 * (rows**2).mean()
    bias = 0.0 if layer.bias is None else layer.bias.double().numpy()
    size = rows.shape[1] // layer.weight.shape[1]

    def error(units: Sequence[int]) -> float:
        gone = np.zeros(layer.weight.shape[1], dtype=bool)
        gone[columns[list(units)].flatten()] = True
        gone = np.repeat(gone, size)
        system = np.r_[rows[:, ~gone], np.sqrt(ridge * len(rows)) * np.eye((~gone).sum())]
        if layer.bias is not None:
            system = np.c_[system, np.arange(len(system)) < len(rows)]
        target = np.r_[rows[:, gone] @ weight[gone], np.zeros(((~gone).sum(), weight.shape[1]))]
        change = np.linalg.lstsq(system, target, rcond=None)[0]
        missed = ((system @ change - target) ** 2).sum() / len(rows)
        missed += ridge * (weight[gone] ** 2).sum()
        return float(missed / ((rows @ weight + bias) ** 2).sum(axis=1).mean())

    return error


def check_order(scores: np.ndarray, error: Errors) -> None:
    """Every unit must be the best to remove when it leaves, and the errors those on the way."""
    order = [int(each) for each in np.argsort(scores)]
    reached = []
    for step in range(len(order)):
        others = [error([*order[:step], each]) for each in order[step:]]
        assert others[0] <= min(others) * (1 + 1e-4) + 1e-9
        reached.append(others[0])
    np.testing.assert_allclose(
        scores[order], np.maximum.accumulate(reached), rtol=1e-3, atol=1e-7 * max(reached)
    )
    assert (np.diff(scores[order]) > 0).all()


def paid_one_by_one(weights: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return the most that was paid until each weight of each row, (m, d), had left.

    A system of what is still there is solved anew at every step.
    """
    moments, paid = np.linalg.inv(inverse), np.zeros(weights.shape)
    for row, own in zip(paid, weights, strict=True):
        left, worst = list(range(len(own))), 0.0
        while left:
            rest = moments[np.ix_(left, left)]
            # The best values of those that are left for what all of them computed.
            values = np.linalg.solve(rest, moments[left] @ own)
            costs = values**2 / np.linalg.inv(rest).diagonal()
            place = int(costs.argmin())
            worst = max(worst, float(costs[place]))
            row[left.pop(place)] = worst
    return paid
