"""Recovery by training: short fine-tuning, optionally distilled from the dense network."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad, softmax

from autoprune.data.dataset import Dataset
from autoprune.errors import NonFiniteError
from autoprune.job.spec import RungSpec

# Hinton et al., 2015: softened targets, with the hard labels for the rest of the weight.
_TEMPERATURE = 4.0
_DISTILL_WEIGHT = 0.7
_MAX_GRADIENT_NORM = 5.0


def training_steps(rung: RungSpec, samples: int) -> int:
    """Return how many steps a rung's recovery takes on `samples` training samples."""
    if rung.finetune_epochs is not None:
        return rung.finetune_epochs * math.ceil(samples / rung.batch_size)
    return rung.finetune_steps or 0


def finetune(
    network: nn.Module,
    dataset: Dataset,
    rung: RungSpec,
    *,
    seed: int,
    device: torch.device,
    teacher: nn.Module | None = None,
) -> None:
    """Train `network` in place with SGD and a cosine schedule; it is left in eval mode.

    The same seed gives the same weights on the same machine. `teacher`, in eval mode,
    adds its softened logits to the loss. Raises `NonFiniteError` naming the step at which
    the loss is no longer a number.
    """
    steps = training_steps(rung, len(dataset.train))
    optimizer = torch.optim.SGD(
        network.parameters(), rung.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.requires_grad_(True).train()
    # Dropout draws from the global generator: lend it our seed, give it back after.
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        batches = _batches(dataset, rung.batch_size, steps, seed, device)
        for step, (inputs, labels) in enumerate(batches):
            loss = _loss(network(inputs), labels, inputs, teacher)
            if not torch.isfinite(loss):
                raise NonFiniteError(f"the loss is {loss.item()} at fine-tuning step {step}")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), _MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
    network.requires_grad_(False).eval()


def _loss(logits: Tensor, labels: Tensor, inputs: Tensor, teacher: nn.Module | None) -> Tensor:
    hard = cross_entropy(logits, labels)
    return hard if teacher is None else distilled(hard, logits, inputs, teacher)


def distilled(hard: Tensor, logits: Tensor, inputs: Tensor, teacher: nn.Module) -> Tensor:
    """Return the loss `hard` mixed with the distance of `logits` from a teacher's."""
    with torch.no_grad():
        target = softmax(teacher(inputs) / _TEMPERATURE, dim=1)
    soft = kl_div(log_softmax(logits / _TEMPERATURE, dim=1), target, reduction="batchmean")
    return (1 - _DISTILL_WEIGHT) * hard + _DISTILL_WEIGHT * _TEMPERATURE**2 * soft


def _batches(
    dataset: Dataset, batch_size: int, steps: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `steps` seeded, augmented batches, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) == 0:
            order = torch.randperm(len(dataset.train), generator=generator)
        index, order = order[:batch_size], order[batch_size:]
        inputs = dataset.normalise(dataset.train.inputs[index].to(device))
        yield augmented(inputs, generator), dataset.train.labels[index].to(device)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift natural images (3 channels) by up to an eighth and mirror half of them.

    Other inputs are returned as they are: a mirrored digit is another symbol.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        return images
    count, _, height, width = images.shape
    reach = height // 8
    padded = pad(images, (reach, reach, reach, reach))
    top, left = (int(torch.randint(2 * reach + 1, (1,), generator=generator)) for _ in range(2))
    shifted = padded[:, :, top : top + height, left : left + width]
    mirrored = torch.rand(count, generator=generator) < 0.5
    mask = mirrored.view(-1, 1, 1, 1).to(images.device)
    return torch.where(mask, shifted.flip(3), shifted).contiguous(memory_format=torch.channels_last)
