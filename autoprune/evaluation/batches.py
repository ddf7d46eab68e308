"""Training batches as a function of the step, and of nothing that came before."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from autoprune.contracts.recovery import Batch
from autoprune.data.dataset import Dataset

# Keeps the orders of epochs apart from what else is drawn with the same seed.
_ORDERS = 1


class Batches:
    """The training part in random orders, epoch after epoch, normalised, on a device.

    `batches(step)` depends on the seed and the step alone. The last batch of an epoch is what
    is left over.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, device: torch.device) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self._per_epoch = math.ceil(len(dataset.train) / batch_size)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        epoch, place = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch, _ORDERS))
            self._order = torch.from_numpy(rng.permutation(len(self.dataset.train)))
            self._epoch = epoch
        rows = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        part = self.dataset.train
        inputs = self._moved(_taken(part.inputs, rows))
        return Batch(
            self.dataset.normalise(inputs),
            self._moved(part.labels.index_select(0, rows)),
            self._moved(rows),
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        """Return the tensor on the device; a GPU fetches it while it still computes."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _taken(inputs: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of a part, in its memory layout."""
    if inputs.dtype != torch.uint8:
        return inputs.index_select(0, rows)
    # As they lie in memory, whole images are copied: sixteen times faster than by channels.
    return inputs.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
