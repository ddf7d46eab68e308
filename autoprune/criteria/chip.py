"""CHIP (Sui et al., CHannel Independence-based Pruning, NeurIPS 2021)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoprune.contracts.criterion import Cost, Criterion, Need
from autoprune.criteria._observed import polled, thinned
from autoprune.scoring.evidence import Evidence

# Nodes of a trapezoidal rule in log τ. The integrand is analytic within ±iπ/2 of the axis, so
# this step is off by about exp(-π²/step); it falls by e a unit towards either end.
_STEP = 0.25
_REACH = 30.0


class Chip(Criterion):
    """How much of a layer's feature maps a unit alone brings: s_i = E[‖A‖_* - ‖A_(i)‖_*].

    A is the matrix (units, positions) of what is read of a sample, A_(i) the same with row i set
    to zero, ‖·‖_* the sum of the singular values. What other units can make up for counts little.
    The expectation is over at most `samples` samples.

    The paper decomposes A_(i) for every unit. One decomposition A = U S Vᵀ is enough, since
    det(AᵀA + τ²) changes by a known factor g when a row leaves, and √λ is the integral of
    log(1 + λ/τ²) / π over τ > 0:

        ‖A‖_* - ‖A_(i)‖_* = -1/π ∫ log g_i(τ) dτ,   g_i(τ) = 1 - Σ_j U_ij² s_j² / (s_j² + τ²)

    which is computed to about eleven digits. For c units of p positions a sample takes
    O(c · p · min(c, p)) steps, in place of as many for every unit.

    The kernels that read the group vote, each scaled to a mean of 1. So every group has a mean
    of 1, and one threshold treats groups alike.
    """

    cost: ClassVar[Cost] = "activations"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def __init__(self, *, seed: int = 0, samples: int = 16) -> None:
        super().__init__(seed=seed)
        if samples < 1:
            raise ValueError(f"samples must be at least 1, given {samples}")
        self.samples = samples

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the scaled drops of every group that is read where it can be seen."""
        seen = thinned(evidence, self.samples).observed(
            lambda read: torch.stack([independence(each) for each in read])
        )
        return polled(seen)


def independence(matrix: Tensor) -> Tensor:
    """Return by how much the nuclear norm falls without each row; (c, p) gives float64 (c,)."""
    left, values, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    largest = float(values[0])
    if largest == 0.0:
        return matrix.new_zeros(len(matrix), dtype=torch.float64)
    squares = (values[:, None] / largest).square()
    places = torch.arange(-_REACH, _REACH, _STEP, dtype=torch.float64, device=matrix.device)
    nodes = places.exp()
    shares = left.square()
    # What of a unit no vector of U holds; nothing where U is square, not even by rounding.
    missing = (1.0 - shares.sum(dim=1, keepdim=True)).clamp(min=0.0)
    missing *= float(left.shape[1] < left.shape[0])
    lost = shares @ (squares / (squares + nodes.square()))
    kept = missing + shares @ (nodes.square() / (squares + nodes.square()))
    # Either form is exact where its logarithm is not next to that of the other.
    logs = torch.where(lost < 0.5, torch.log1p(-lost.clamp(max=0.5)), kept.log())
    return -(logs @ nodes) * (largest * _STEP / math.pi)
