"""Optimal brain surgeon, layer by layer (Dong et al., NeurIPS 2017; Kurtić et al., NeurIPS 2023).

After Hassibi and Stork, Second Order Derivatives for Network Pruning, NeurIPS 1992, who
correct what stays; Frantar and Alistarh, Optimal Brain Compression, NeurIPS 2022.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoprune.contracts.criterion import Cost, Need, WeightCriterion
from autoprune.criteria._columns import by_column
from autoprune.criteria._one_by_one import losses_in_order
from autoprune.criteria._reader import Reader, readers_of, scored
from autoprune.scoring.evidence import Evidence
from autoprune.surgery.reconstruct import LayerMoments

_LARGEST = 4609
"""Inputs that a layer may have: 512 channels of a 3×3 convolution, and the bias."""
_POOL = 4
"""Of how many times as many units those are chosen that leave together."""


class Obs(WeightCriterion):
    """Squared error of the next layers' outputs when a unit leaves and the kernels are corrected.

    Removing the inputs S of a layer Wᵀx with the best correction of the others costs
    tr(W_Sᵀ ([H⁻¹]_SS)⁻¹ W_S) of mean square, with H = G + λI, G being the moments of x and λ a
    hundredth of their mean. The cheapest unit leaves, W and H⁻¹ are updated by eliminating S,
    and so on; a score is what all has cost until its unit has left. The constant input of a
    bias never leaves and takes part in corrections. What λ charges for weights that leave is
    part of the cost: it stands for what the samples did not show.

    Several readers add up, each relative to the mean square of all that it computes: scores are
    shares of lost signal, and one threshold treats groups alike. Each unit that leaves d inputs
    takes d² operations, so groups are emptied in at most `steps` steps: where more than one unit
    leaves in a step, they are chosen one by one, each with the costs that the earlier ones
    leave, from the few that were cheapest when the step began. Readers say nothing that have no
    moments (convolutions in several groups, the largest layers) or more than 4,609 inputs; a
    group without others is left out.

    Single weights leave their row one by one as well, as in Optimal Brain Compression: a weight
    costs w²/(2 [H⁻¹]_jj), half of the squared error of its layer's outputs, when its turn comes,
    and is worth the most that was paid until then. Weights compare between layers as far as their
    outputs do. A kernel of m outputs and d inputs takes m d³ operations: where these are more than
    `operations`, its inputs are gone through in blocks, and no weight tells what it costs those of
    other blocks to do without it. Where moments are not known, as within attention, but what is
    read can be watched, inputs count as if none told anything of another: w² E[x_j²] / 2.
    """

    cost: ClassVar[Cost] = "solve"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def __init__(self, *, seed: int = 0, steps: int = 128, operations: float = 1.3e10) -> None:
        super().__init__(seed=seed)
        for option, value in (("steps", steps), ("operations", operations)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, given {value}")
        self.steps = steps
        self.operations = operations

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the relative costs until units have left, shape (units,), by group."""
        readers = {
            group.name: [
                each
                for each in readers_of(group, evidence.moments)
                if len(each.moments.gram) <= _LARGEST
            ]
            for group in evidence.groups.prunable
        }
        # A layer may read several groups: its inverse is kept until the last of them is done.
        uses = Counter(each.name for own in readers.values() for each in own)
        inverses: dict[str, Tensor | None] = {}
        found: dict[str, np.ndarray] = {}
        for name, own in readers.items():
            systems = []
            for each in own:
                if each.name not in inverses:
                    inverses[each.name] = each.moments.inverse()
                inverse = inverses[each.name]
                uses[each.name] -= 1
                if not uses[each.name]:
                    del inverses[each.name]
                if inverse is not None:
                    systems.append(_System.of(each, inverse))
            if systems:
                found[name] = _emptied(systems, self.steps)
        return found

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return what every weight of the kernels whose inputs can be seen costs."""
        layers = evidence.all_moments.layers
        found: dict[str, np.ndarray] = {}
        for kernel in evidence.kernels:
            layer, _, own = kernel.rpartition(".")
            losses = self._losses(layers[layer]) if own == "weight" and layer in layers else None
            weights = evidence.weights[kernel]
            if losses is not None:
                found[kernel] = losses.view(weights.shape).cpu().numpy()
            elif kernel in evidence.input_norms:
                squares = np.square(evidence.input_norms[kernel])
                found[kernel] = np.square(weights) * by_column(squares, weights) / 2.0
        return found

    def _losses(self, moments: LayerMoments) -> Tensor | None:
        """Return what weights cost when their turn comes, (m, d); None where that is not known."""
        inverse = moments.inverse() if len(moments.gram) <= _LARGEST else None
        if inverse is None:
            return None
        able = len(inverse) - int(moments.has_bias)  # all but the constant input of a bias
        weights = moments.weight[:able].T.contiguous()
        return losses_in_order(weights, inverse[:able, :able], self.operations) / 2.0


class _System:
    """What is left of a reader's kernel, and of its inverse moments, while units leave.

    `inverse` has shape (units width, units width), of what the group's units have; `weight` has
    shape (units width, m). Inputs of other groups stay, so what their rows of the inverse hold
    is not needed. Where a unit has nothing, the inverse is one and the weight zero.
    """

    def __init__(self, inverse: Tensor, weight: Tensor, width: int) -> None:
        self.inverse = inverse
        self.weight = weight
        self.width = width

    @classmethod
    def of(cls, reader: Reader, inverse: Tensor) -> _System:
        own = reader.square(inverse)
        absent = (reader.columns < 0).flatten()
        own[absent] = 0.0
        own[:, absent] = 0.0
        own.diagonal()[absent] = 1.0
        return cls(own, reader.weight.flatten(0, 1), reader.columns.shape[1])

    def costs(self, units: Tensor) -> Tensor:
        """Return what each of some units, shape (n,), would cost if it left next, shape (n,)."""
        blocks = self.inverse.unflatten(0, (-1, self.width)).unflatten(2, (-1, self.width))
        own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)[units]
        weight = self.weight.unflatten(0, (-1, self.width))[units]
        owed = torch.linalg.solve_triangular(torch.linalg.cholesky(own), weight, upper=False)
        costs: Tensor = owed.square().sum((1, 2))
        return costs

    def units(self) -> Tensor:
        """Return all its units, shape (units,)."""
        return torch.arange(len(self.weight) // self.width, device=self.weight.device)

    def part(self, units: Tensor) -> _System:
        """Return a system of some units alone, shape (n,), of which the others never leave."""
        index = self._inputs(units)
        inverse = self.inverse.index_select(0, index).index_select(1, index)
        return _System(inverse, self.weight.index_select(0, index), self.width)

    def remove(self, units: Tensor) -> None:
        """Correct for some units, shape (n,), that leave; what is left of them means nothing."""
        index = self._inputs(units)
        rows = self.inverse.index_select(0, index)
        factor = torch.linalg.cholesky(rows.index_select(1, index))
        half = torch.linalg.solve_triangular(factor, rows, upper=False)
        weight = self.weight.index_select(0, index)
        owed = torch.linalg.solve_triangular(factor, weight, upper=False)
        self.inverse.addmm_(half.T, half, alpha=-1.0)
        self.weight.addmm_(half.T, owed, alpha=-1.0)

    def _inputs(self, units: Tensor) -> Tensor:
        within = torch.arange(self.width, device=units.device)
        return (units[:, None] * self.width + within).flatten()


def _emptied(systems: list[_System], steps: int) -> np.ndarray:
    """Return the scores of greedy removal by all readers together, shape (units,)."""
    names = left = systems[0].units()
    together = -(-len(left) // steps)
    order: list[int] = []
    errors: list[float] = []
    while len(left):
        cheapest = left[_costs(systems, left).argsort(stable=True)]
        pool = cheapest[: _POOL * together]
        chosen = _chosen([each.part(pool) for each in systems], min(together, len(left)))
        gone = pool[[place for place, _ in chosen]]
        order += names[gone].tolist()
        for _, cost in chosen:
            errors.append(cost + (errors[-1] if errors else 0.0))
        for each in systems:
            each.remove(gone)
        left = left[~torch.isin(left, gone)]
        if 0 < 2 * len(left) <= len(names):  # what is gone need not be carried along for ever
            systems = [each.part(left) for each in systems]
            names, left = names[left], torch.arange(len(left), device=left.device)
    return scored(order, errors)


def _chosen(systems: list[_System], count: int) -> list[tuple[int, float]]:
    """Remove so many units one by one; return which left, and what each cost when it did."""
    left = systems[0].units()
    found: list[tuple[int, float]] = []
    for _ in range(count):
        costs = _costs(systems, left)
        place = int(costs.argmin())
        found.append((int(left[place]), float(costs[place])))
        for each in systems:
            each.remove(left[place : place + 1])
        left = torch.cat([left[:place], left[place + 1 :]])
    return found


def _costs(systems: list[_System], units: Tensor) -> Tensor:
    return torch.stack([each.costs(units) for each in systems]).sum(dim=0)
