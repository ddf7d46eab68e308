"""Lottery tickets: train, prune, go back, and train again."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Chosen
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._schedule import share_of_rate
from autoprune.recoveries.finetune import Finetune
from autoprune.surgery.sparsify import mask_of

Rewind = Literal["weights", "learning_rate"]


class Lottery(Finetune):
    """Lottery tickets: rounds of training, after each the smallest weights leave and it rewinds.

    Frankle and Carbin, "The lottery ticket hypothesis", ICLR 2019, iterative magnitude pruning:
    the same share of what is left leaves after every round, so that of a kernel of which the
    share k stays, k^(i / (n - 1)) is there after i of n rounds; the last one trains the ticket.
    Every round begins with the schedule of the learning rate anew and without momentum. With
    `rewind: weights` everything returns to what it was, and what is left is trained again; with
    `learning_rate` only the schedule does (Renda, Frankle and Carbin, "Comparing rewinding and
    fine-tuning in neural network pruning", ICLR 2020).

    Departures: weights return to what they were before the first step of the recovery, since
    those of the network's own early training are not known; the share of every kernel is the
    policy's, and the steps of the rung are divided among the rounds.

    Args:
        rounds: trainings, at least 2.
        rewind: what returns to its beginning after a round.
        options: those of `finetune`, without `patience`.
    """

    chooses_weights: ClassVar[bool] = True
    reads_criterion: ClassVar[bool] = False

    def __init__(
        self, *, rounds: int = 3, rewind: Rewind = "learning_rate", **options: Any
    ) -> None:
        super().__init__(**options)
        if rounds < 2:
            raise ValueError(f"rounds must be at least 2, the last without pruning, given {rounds}")
        if self.patience is not None:
            raise ValueError(
                "patience takes the loss after a rewind for a plateau; leave it out of lottery"
            )
        self.rounds = rounds
        self.rewind: Rewind = rewind

    def masking(self, training: Training) -> Masking:
        """Return what lets weights leave between rounds."""
        return _Lottery(training, self.rounds, self.rewind)

    def share_of_rate(self, training: Training, step: int) -> float:
        """Return the share of the learning rate that a step of its round takes."""
        if training.sparsity is None:
            return super().share_of_rate(training, step)
        at = step * self.rounds // training.steps
        start, end = (math.ceil(x * training.steps / self.rounds) for x in (at, at + 1))
        return share_of_rate(self.schedule, step - start, end - start, self.warmup)


class _Lottery(Chosen):
    def __init__(self, training: Training, rounds: int, rewind: Rewind) -> None:
        super().__init__(training)
        self.rounds = rounds
        state = self.network.state_dict() if rewind == "weights" and self.kernels else {}
        self.initial = {name: each.clone() for name, each in state.items()}

    def after(self, step: int) -> None:
        super().after(step)
        before, now = (taken * self.rounds // self.training.steps for taken in (step, step + 1))
        if self.kernels and before < now < self.rounds:
            self._begin(now)

    def _begin(self, at: int) -> None:
        """Begin the round `at`, counted from zero."""
        worth, masks = self.saliencies(), {}
        for name, decision in self.sparsity.decisions.items():
            ratio = decision.keep_ratio
            share = (1.0 - ratio ** (at / (self.rounds - 1))) / (1.0 - ratio)
            masks[name] = mask_of(worth[name], decision, share)
        if self.initial:
            self.network.load_state_dict(self.initial)
        self.optimizer.state.clear()
        self.take(masks)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {f"initial/{name}": each for name, each in self.initial.items()}
