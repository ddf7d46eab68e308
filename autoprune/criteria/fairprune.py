"""Fairness through pruning (Wu et al., FairPrune, MICCAI 2022)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from autoprune.contracts.criterion import Cost, Criterion, Need
from autoprune.scoring.evidence import Evidence
from autoprune.tracing.example import logits_of
from autoprune.tracing.recorder import evaluation_mode, without_fast_path


class FairPrune(Criterion):
    """How much more a unit matters to those served worst than to those served best.

    s = E₀[(dL/dm)²] / 2 − β E₁[(dL/dm)²] / 2, with a factor m = 1 before the unit and means over
    single samples of two groups of people: 0 is the unprivileged and 1 the privileged one. Both
    halves are second-order changes of a group's loss, with the Fisher information in place of
    the Hessian; removed first is what the privileged need and the unprivileged do not.

    The paper weighs single weights, and is told two groups by an attribute such as skin tone.
    Here units are weighed, and since training data carry no attribute the groups are classes:
    of the samples, those of the class with the highest mean loss under the dense network are
    unprivileged, those of the class with the lowest privileged. Nothing is known where all
    samples are of one class. `beta` is what the privileged count for; at 0 they do not. Scores
    are changes of the loss, so one threshold treats groups of units alike.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "labels", "gradients"})

    def __init__(self, *, seed: int = 0, beta: float = 0.33) -> None:
        super().__init__(seed=seed)
        if not 0.0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}; it must be a finite number of at least 0")
        self.beta = beta

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the differences of every group, shape (units,)."""
        labels, losses = _losses(evidence)
        classes = np.unique(labels)
        if len(classes) < 2:
            return {}
        means = [losses[labels == each].mean() for each in classes]
        worst = labels == classes[np.argmax(means)]
        best = labels == classes[np.argmin(means)]
        return {
            name: (_fisher(gates[worst]) - self.beta * _fisher(gates[best])) / 2
            for name, gates in evidence.gates.items()
        }


def _fisher(gates: np.ndarray) -> np.ndarray:
    information: np.ndarray = np.square(gates).mean(axis=0)
    return information


@torch.no_grad()
def _losses(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of every sample and its loss under the dense network, (samples,) each."""
    known, losses = [], []
    with evaluation_mode(evidence.model), without_fast_path():
        for inputs, labels in evidence.batches(labelled=True):
            logits = logits_of(evidence.model(inputs)).float()
            known.append(labels.cpu())
            losses.append(functional.cross_entropy(logits, labels, reduction="none").cpu())
    return torch.cat(known).numpy(), torch.cat(losses).double().numpy()
