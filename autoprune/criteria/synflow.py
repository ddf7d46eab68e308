"""Synaptic flow (Tanaka et al., Pruning Neural Networks Without Any Data, NeurIPS 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.contracts.criterion import Cost, Need, WeightCriterion
from autoprune.criteria._derivation import derived, kernels_alone
from autoprune.graph.units import summed
from autoprune.scoring.evidence import Evidence
from autoprune.tracing.example import logits_of

_SHARE_LEFT = 1e-3  # of the weights, after the last round
_SCALES = (1.0, 1e-50, 1e-100, 1e-150, 1e-200)
_ROUNDING = float(np.finfo(np.float64).eps)


class SynFlow(WeightCriterion):
    """How much of what flows from inputs to outputs passes through a weight: s = |θ ∂R/∂θ|.

    R is the sum of the outputs of the network with absolute weights for an input of ones; of the
    samples nothing but the shape is used. Batch norms keep their variances. Their means and
    shifts and all biases are zero, so that all comes from the input and every kernel of a chain
    carries the same total, R; the paper keeps biases, which its untrained networks have none of.
    All is in float64, as R is a product over layers. Where an input of ones drives ReLU6 or the
    like into saturation, one is taken that is small enough for the network to be linear in it.
    Networks with layer norms, attention or additive embeddings may be linear nowhere; theirs
    have the derivative that they have, and nothing is conserved. Kernels that carry none of the
    flow, as those of gates, are left out.

    Weights are ranked by rounds as in the paper, so that no layer goes while others are full: in
    each an equal share of what is left leaves, and the flow is measured anew. A weight is worth
    the round in which it leaves, plus its rank in that round, from 0 to 1. A chain of L kernels
    loses none as a whole while a round takes at most 1/L of what is left, because every kernel
    carries R, however few weights share it. That is more than it takes: in networks of 8 to 20
    kernels ten rounds down to a thousandth of the weights emptied none up to 99.7% sparsity. So
    the default is 30, of a fifth each, instead of the paper's 100.

    A unit is worth the sum of s over the weights that make it, in the whole network and without
    rounds: what flows through it. That is a share of one R, so one threshold treats groups alike.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "gradients"})

    def __init__(self, *, seed: int = 0, rounds: int = 30) -> None:
        super().__init__(seed=seed)
        if rounds < 1:
            raise ValueError(f"rounds is {rounds}; there must be at least 1")
        self.rounds = rounds

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the share of the flow that passes through every unit, shape (units,)."""
        flow = _Flow(evidence)
        found = {each.name: summed(each, flow.whole) for each in evidence.groups.prunable}
        return {name: each / flow.total for name, each in found.items() if each is not None}

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return for every weight the round in which it leaves, plus its rank in that round."""
        flow = _Flow(evidence)
        carried = flow.whole
        if not carried:
            return {}
        order = {name: np.zeros(each.shape) for name, each in carried.items()}
        left = {name: np.ones(each.shape, dtype=bool) for name, each in carried.items()}
        count = sum(each.size for each in left.values())
        for number in range(self.rounds):
            kept = math.ceil(count * _SHARE_LEFT ** ((number + 1) / self.rounds))
            bound = _largest(kept, (carried[name][mask] for name, mask in left.items()))
            leaving = {name: mask & (carried[name] < bound) for name, mask in left.items()}
            _rank(order, leaving, carried, number)
            left = {name: mask & ~leaving[name] for name, mask in left.items()}
            rest = flow.without(leaving)
            # Where nothing flows any more, the last flow goes on deciding.
            carried = rest if any(each.any() for each in rest.values()) else carried
        _rank(order, left, carried, self.rounds)
        return order


def _largest(count: int, values: Iterable[np.ndarray]) -> float:
    """Return the least of the so many largest values."""
    pooled = np.concatenate(list(values))
    place = len(pooled) - min(count, len(pooled))
    return float(np.partition(pooled, place)[place])


def _rank(
    order: Mapping[str, np.ndarray],
    chosen: Mapping[str, np.ndarray],
    carried: Mapping[str, np.ndarray],
    number: int,
) -> None:
    """Write down the round of the chosen weights, plus a rank of [0, 1) by what they carry."""
    values = np.unique(np.concatenate([carried[name][mask] for name, mask in chosen.items()]))
    for name, mask in chosen.items():
        ranks = np.searchsorted(values, carried[name][mask])
        order[name][mask] = number + ranks / max(1, len(values))


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return values of 30 bits: weights of a path without branches carry the same, bar rounding.

    Without, the order in which a sum over channels runs would decide which of them leaves first.
    """
    mantissas, exponents = np.frexp(values)
    rounded: np.ndarray = np.ldexp(np.round(np.ldexp(mantissas, 30)), exponents - 30)
    return rounded


class _Flow:
    """What flows through the weights of a copy of a network, some of which may be gone.

    `total` is R while all are there, and `whole` what the weights of kernels carry of it, by
    name. Missing are kernels that carry no more than rounding errors, or more than a number can
    be.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._network = _absolute(evidence.network().double())
        self._kernels = kernels_alone(self._network, evidence)
        inputs, _ = next(evidence.batches())
        self._inputs = self._small_enough(inputs[:1])
        self.total = abs(self._total(self._inputs)) or 1.0
        self.whole: Mapping[str, np.ndarray] = {
            name: each
            for name, each in self._carried().items()
            if _ROUNDING * self.total < each.sum() < math.inf
        }

    @torch.no_grad()
    def without(self, gone: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Remove weights, for good, and return what the others carry."""
        for name, mask in gone.items():
            kernel = self._kernels[name]
            kernel.masked_fill_(torch.from_numpy(mask).to(kernel.device), 0.0)
        return self._carried()

    def _carried(self) -> dict[str, np.ndarray]:
        with derived(self._network):
            outputs = logits_of(self._network(self._inputs)).sum()
            given = torch.autograd.grad(
                outputs, list(self._kernels.values()), materialize_grads=True
            )
        pairs = zip(self._kernels.items(), given, strict=True)
        return {
            name: _rounded((each.detach() * by).abs().cpu().numpy()) for (name, each), by in pairs
        }

    def _total(self, inputs: Tensor) -> float:
        with derived(self._network), torch.no_grad():
            return float(logits_of(self._network(inputs)).sum())

    def _small_enough(self, sample: Tensor) -> Tensor:
        """Return an input of equal numbers in which the network is linear; ones if none is."""
        ones = torch.ones_like(sample)
        if not ones.is_floating_point():
            return ones
        for scale in _SCALES:
            inputs = ones.double() * scale
            total, half = self._total(inputs), self._total(inputs / 2)
            if total != 0.0 and abs(total - 2 * half) <= 1e-6 * abs(total) < math.inf:
                return inputs
        return ones.double()


@torch.no_grad()
def _absolute(network: nn.Module) -> nn.Module:
    """Make all weights absolute and all that is added zero, in place."""
    for name, each in network.named_parameters():
        if name.rpartition(".")[2].startswith("bias"):
            each.zero_()
        else:
            each.abs_()
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.zero_()
    return network
