"""GraSP (Wang et al., Picking Winning Tickets ... by Preserving Gradient Flow, ICLR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autoprune.contracts.criterion import Cost, Need, WeightCriterion
from autoprune.criteria._derivation import derived, kernels_alone
from autoprune.scoring.evidence import Evidence
from autoprune.tracing.example import logits_of


class Grasp(WeightCriterion):
    """How much gradient flow a weight carries: s = w · (H g), half of what leaves with it.

    Gradient flow is gᵀg, with the gradient g of the mean loss over all samples by all kernels.
    Changing the weights by δ changes it by 2 δᵀ H g to first order, with the Hessian H. Removing
    weight w is δ = −w in its place, so gᵀg changes by −2 w (H g) = −2 s: weights of high s
    take gradient flow with them, those of negative s are in its way and leave first. The
    paper's own score is −w (H g), of which it removes the highest: the same order.

    The paper asks this before training, and divides the logits by a temperature of 200 lest the
    loss saturate; here the network is trained and its loss is what it is. Batch norms use the
    statistics they have. A unit is worth the sum over the weights that make it, the effect of
    removing them together; scores are changes of one number, so one threshold treats groups
    alike. Nothing is known of a network with an operation that cannot be derived twice.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "labels", "gradients"})

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return w (H g) of every kernel."""
        flow = [evidence.gradients[name] for name in evidence.kernels]
        try:
            curved = _hessian_times(flow, evidence)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation without a second derivative
            return {}
        return {
            name: evidence.weights[name] * each.double().cpu().numpy()
            for name, each in zip(evidence.kernels, curved, strict=True)
        }


def _hessian_times(vector: Sequence[np.ndarray], evidence: Evidence) -> list[Tensor]:
    """Return the Hessian of the mean loss by all kernels, times a vector in their shapes.

    Of every batch that is the gradient of (vector · its gradient), a second backward pass.
    """
    network = evidence.network()
    kernels = list(kernels_alone(network, evidence).values())
    pairs = zip(vector, kernels, strict=True)
    fixed = [torch.from_numpy(each).to(kernel) for each, kernel in pairs]
    count = sum(len(inputs) for inputs, _ in evidence.batches())
    for inputs, labels in evidence.batches(labelled=True):
        with derived(network):
            logits = logits_of(network(inputs)).float()
            loss = functional.cross_entropy(logits, labels, reduction="sum") / count
            own = torch.autograd.grad(loss, kernels, create_graph=True, materialize_grads=True)
            along = [(each * other).sum() for each, other in zip(fixed, own, strict=True)]
            # Not `grad`, which passes over functions that are declared to be derived once only.
            torch.autograd.backward(sum(along[1:], along[0]))
    return [torch.zeros_like(each) if each.grad is None else each.grad for each in kernels]
