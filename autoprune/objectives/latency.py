"""Measured latency."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement


class Latency(Objective):
    """Median milliseconds of one forward pass of the carved network, warm, alone.

    Args:
        batch: samples per pass.
        runs: timed passes; the median and its 95 % interval come from these.
        warmup: passes before the timing starts.
    """

    name: ClassVar[str] = "latency_ms"
    unit: ClassVar[str] = "ms"
    stage: ClassVar[Stage] = Stage.NETWORK

    def __init__(self, *, batch: int = 1, runs: int = 50, warmup: int = 10) -> None:
        if min(batch, runs) < 1 or warmup < 0:
            raise ValueError("batch and runs must be at least 1, warmup at least 0")
        self.batch = batch
        self.runs = runs
        self.warmup = warmup

    def measure(self, subject: Subject) -> Measurement:
        """Time the network on `batch` copies of the first example, on its own device."""
        import torch

        assert subject.network is not None
        assert subject.example is not None
        network, example = subject.network, subject.example[:1]
        inputs = example.expand(self.batch, *example.shape[1:]).clone()
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        times_ms = np.empty(self.runs)
        with torch.inference_mode():
            for run in range(-self.warmup, self.runs):
                start = time.perf_counter()
                network(inputs)
                if inputs.is_cuda:
                    torch.cuda.synchronize(inputs.device)
                if run >= 0:
                    times_ms[run] = (time.perf_counter() - start) * 1e3
        return _median_with_interval(times_ms)


def _median_with_interval(times_ms: np.ndarray) -> Measurement:
    """Return the median with its distribution-free 95 % interval from order statistics."""
    ordered = np.sort(times_ms)
    half = 0.98 * np.sqrt(len(ordered))
    low = max(0, int(np.floor(len(ordered) / 2 - half)))
    high = min(len(ordered) - 1, int(np.ceil(len(ordered) / 2 + half)))
    return Measurement(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))
