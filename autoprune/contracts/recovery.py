"""The contract of a recovery: how a network that lost something is trained until it is good.

    recovery = Finetune(schedule="constant", ema=0.999)
    recovery.recover(training)            # trains training.network, in place

What a recovery is given follows from the seed and the number of the step alone, and what it
draws itself must follow from `training.seeds(step)`: no state of a generator is carried from
step to step, so that training can go on from a checkpoint as if nothing had happened:

    begun = training.checkpoint.read()    # (tensors, about) that another attempt left, or None
    for step in range(about["step"] if begun else 0, training.steps):
        loss = training.loss(training.batch(step))
        ...
        if training.checkpoint.is_due:
            training.checkpoint.write(tensors, {"step": step + 1})

Whoever calls `recover` removes the checkpoint afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoprune.policy import Policy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autoprune.surgery.removal import Removal
    from autoprune.surgery.sparsify import Sparsity


@dataclass(frozen=True, slots=True)
class Teacher:
    """A network of the same job that teaches: its policy, and the file of its weights."""

    policy: Policy
    weights: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Training samples on the network's device, as it reads them.

    `inputs` is float32 (n, ...), `labels` and `rows` are int64 (n,): classes, and places in the
    training part. Whoever changes the inputs says in `mirrored`, bool (n,), which of them are
    mirror images; None: none is.
    """

    inputs: Tensor
    labels: Tensor
    rows: Tensor
    mirrored: Tensor | None = None


class Checkpoint(ABC):
    """A place for what a recovery needs to go on after its process was killed."""

    @property
    @abstractmethod
    def is_due(self) -> bool:
        """Say whether it is time to write again."""

    @abstractmethod
    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors, on the CPU, and the words that were written last, or None."""

    @abstractmethod
    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Keep tensors, and JSON values about them, in place of what was written before."""


@dataclass(frozen=True)
class Training:
    """What a recovery works with.

    `network` lies on its device. `batch(step)` is the batch of a step, not augmented yet, and
    `loss(batch)` a scalar: that of the network's outputs on it, with what its teachers add.
    `learning_rate` is that of the rung. `sparsity` says which single weights leave; without it
    all stay. `removal` says which units do, where the network still has them.
    """

    network: nn.Module
    steps: int
    seed: int
    learning_rate: float
    batch: Callable[[int], Batch]
    loss: Callable[[Batch], Tensor]
    checkpoint: Checkpoint
    sparsity: Sparsity | None = None
    removal: Removal | None = None

    def seeds(self, step: int) -> tuple[int, int]:
        """Return two seeds of a step: for what changes its batch, and for the network's dropout."""
        first, second = np.random.default_rng((self.seed, step)).integers(2**63, size=2)
        return int(first), int(second)


class Recovery(ABC):
    """Trains a pruned network. Stateless: what comes out follows from what it is given.

    Constructed as `Recovery(**options)`; raises `ValueError` where options make no sense. Where
    single weights leave, they have left before (they are zero), unless the recovery chooses
    them itself, while it trains; where it does not even begin with those of the criterion, it
    `reads_criterion` no more. Where it `begins_dense`, it is given the dense network, and
    trains it so that the units of `training.removal` can be carved out of it afterwards.
    """

    chooses_weights: ClassVar[bool] = False
    reads_criterion: ClassVar[bool] = True
    begins_dense: ClassVar[bool] = False

    @abstractmethod
    def recover(self, training: Training) -> None:
        """Train the network in place; it is left in eval mode, without gradients.

        As many weights of every kernel are zero in the end as `training.sparsity` wants, and in
        its patterns: those that were, unless the recovery `chooses_weights`.

        Trained from a checkpoint, the network is the same as without the interruption; on
        the CPU, bit for bit. The global generators are left as they were. Raises
        `NonFiniteError` naming the step at which the loss is no longer a number.
        """
