"""Fine-tuning: the pruned network goes on training for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from autoprune.contracts.recovery import Batch, Recovery, Training
from autoprune.data.augmentation import Augmentation, augmented
from autoprune.errors import NonFiniteError
from autoprune.recoveries._average import Average
from autoprune.recoveries._losses import Losses
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import inherit_options
from autoprune.recoveries._progress import Progress
from autoprune.recoveries._schedule import Schedule, share_of_rate


class Finetune(Recovery):
    """Fine-tuning of all weights, by default with SGD and a cosine schedule.

    A derived recovery whose constructor passes `**options` on takes these options as well.

    Args:
        optimizer: `sgd` with Nesterov momentum 0.9, or `adamw`.
        weight_decay: of all parameters.
        schedule: of the learning rate; `rewind` repeats the last part of a usual training, a
            third of the steps each at the rate, a tenth and a hundredth of it.
        warmup: the share of the steps in which the rate rises from zero.
        mixed_precision: run the network in bfloat16 where it is safe, over float32 weights.
        ema: decay of a moving average of weights and statistics, which then is the result.
        augmentation: what is done to images; `auto` shifts and mirrors natural ones.
        patience: stop when the mean loss of so many steps is no lower than before.
        clip: the largest norm of the gradient; None leaves it as it is.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        inherit_options(cls)

    def __init__(
        self,
        *,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        weight_decay: float = 5e-4,
        schedule: Schedule = "cosine",
        warmup: float = 0.0,
        mixed_precision: bool = False,
        ema: float | None = None,
        augmentation: Augmentation = "auto",
        patience: int | None = None,
        clip: float | None = 5.0,
    ) -> None:
        if weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, given {weight_decay}")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is a share of the steps, in [0, 1), given {warmup}")
        if ema is not None and not 0 < ema < 1:
            raise ValueError(f"ema is a decay in (0, 1), such as 0.999, given {ema}")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 step, given {patience}")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be above zero, or null for none, given {clip}")
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.schedule: Schedule = schedule
        self.warmup = warmup
        self.mixed_precision = mixed_precision
        self.ema = ema
        self.augmentation: Augmentation = augmentation
        self.patience = patience
        self.clip = clip

    def recover(self, training: Training) -> None:
        """Train for as many steps as the rung says, or until the loss stays where it is."""
        network = training.network.requires_grad_(True).train()
        device = next(network.parameters()).device
        progress = self._begun(training, network, device)
        progress.load(training.checkpoint)
        losses = progress.losses
        with _lent_generators(device):
            while progress.step < training.steps and not losses.is_on_plateau:
                self._learn(training, progress)
                progress.step += 1
                if losses.is_read and training.checkpoint.is_due:
                    progress.save(training.checkpoint)
        losses.read(progress.step)
        if progress.average is not None:
            network.load_state_dict(progress.average.tensors)
        progress.masking.end()
        _require_finite(network, progress.step)
        network.requires_grad_(False).eval()

    def _learn(self, training: Training, progress: Progress) -> None:
        """Take one step."""
        network, optimizer, step = training.network, progress.optimizer, progress.step
        progress.masking.before(step)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * self.share_of_rate(training, step)
        to_batch, to_network = training.seeds(step)
        batch = self._augmented(training.batch(step), to_batch)
        device = batch.inputs.device
        # Dropout draws from the global generators, which are lent.
        torch.default_generator.manual_seed(to_network)
        if device.type == "cuda":
            torch.cuda.manual_seed(to_network)
        precision = torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision)
        with precision, progress.masking.passing(step):
            loss = training.loss(batch)
        progress.losses.add(step, loss)
        optimizer.zero_grad(set_to_none=True)
        penalty = progress.masking.penalty(step)
        torch.autograd.backward(loss if penalty is None else loss + penalty)
        progress.masking.see(step)
        if self.clip is not None:
            clip_grad_norm_(network.parameters(), self.clip)
        optimizer.step()
        progress.masking.after(step)
        if progress.average is not None:
            progress.average.update(step)

    def _augmented(self, batch: Batch, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        inputs, mirrored = augmented(batch.inputs, generator, self.augmentation)
        return replace(batch, inputs=inputs, mirrored=mirrored)

    def masking(self, training: Training) -> Masking:
        """Return what keeps single weights that left from coming back."""
        return Masking(training)

    def share_of_rate(self, training: Training, step: int) -> float:
        """Return the share of the learning rate that a step takes, in (0, 1]."""
        return share_of_rate(self.schedule, step, training.steps, self.warmup)

    def _begun(self, training: Training, network: nn.Module, device: torch.device) -> Progress:
        """Return how things stand before the first step."""
        rate = training.learning_rate
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                network.parameters(),
                rate,
                momentum=0.9,
                weight_decay=self.weight_decay,
                nesterov=True,
            )
        else:
            optimizer = torch.optim.AdamW(
                network.parameters(), rate, weight_decay=self.weight_decay
            )
        masking = self.masking(training)
        masking.optimizer = optimizer
        average = None if self.ema is None else Average(network, self.ema)
        losses = Losses(device, self.patience)
        return Progress(network, optimizer, average, losses, masking)


@contextmanager
def _lent_generators(device: torch.device) -> Iterator[None]:
    """Give the global generators back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _require_finite(network: nn.Module, step: int) -> None:
    """Raise `NonFiniteError` where the last step before `step` left weights that are no numbers."""
    for name, each in network.named_parameters():
        if not torch.isfinite(each).all():
            raise NonFiniteError(f"{name} is not finite after fine-tuning step {step - 1}")
