"""Small comparisons: a job whose evaluations take milliseconds, and entries made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from autoprune.comparison.contest import Comparison, Standing, compare, unwatched
from autoprune.comparison.entry import Entry, Outcome
from autoprune.comparison.method import Method
from autoprune.comparison.request import Request
from autoprune.trial import Measurement
from autoprune.validation import validated
from tests.networks import Residual


def noise_job(directory: Path) -> dict[str, Any]:
    """A small network with three classes of noise: evaluations in milliseconds."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, size=140)
    inputs = rng.normal(size=(140, 3, 8, 8)).astype(np.float32)
    inputs[np.arange(140), labels] += 0.4
    parts = {"x_train": inputs[:60], "y_train": labels[:60]}
    np.savez(directory / "data.npz", **parts, x_test=inputs[60:], y_test=labels[60:])
    checkpoint(directory / "model.safetensors", seed=0)
    return {
        "name": "small",
        "model": {
            "import": "tests.networks:Residual",
            "checkpoint": str(directory / "model.safetensors"),
        },
        "data": {"name": "npz", "path": str(directory / "data.npz")},
        "rungs": [{"repair_images": 40}, {"finetune_steps": 3, "batch_size": 20}],
        "resources": {"workers": "serial", "device": "cpu"},
    }


def checkpoint(path: Path, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(Residual().state_dict(), path)


def compared(
    job: Mapping[str, Any],
    out: Path,
    request: Request,
    watcher: Callable[[Standing], None] = unwatched,
) -> Comparison:
    return compare(validated(job), request, out, watcher=watcher)


def entry(
    criterion: str,
    share: float,
    seed: int,
    on_v: float,
    wrong: list[int],
    recovery: str | None = None,
) -> Entry:
    ones = np.zeros(40, bool)
    ones[wrong] = True
    measured = {
        "search": {"error": Measurement(on_v), "loss": Measurement(1.0)},
        "report": {"error": Measurement(len(wrong) / 40), "loss": Measurement(2.0 + seed)},
    }
    return Entry(Method(criterion, recovery), share, seed, Outcome("", measured, ones))
