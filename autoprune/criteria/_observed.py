"""What criteria share that look at feature maps: how readers count, and how many samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from autoprune.graph.units import voted
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples

Seen = Mapping[str, Mapping[str, np.ndarray]]
"""Group → kernel that reads it → what is kept of every sample and unit, (samples, units)."""


def averaged(seen: Seen) -> dict[str, np.ndarray]:
    """Return means over samples, then over readers, for what has one scale everywhere."""
    return {
        group: np.mean([each.mean(axis=0) for each in readers.values()], axis=0)
        for group, readers in seen.items()
    }


def polled(seen: Seen) -> dict[str, np.ndarray]:
    """Return means over samples, in which readers vote, for what each reads on its own scale."""
    found = {
        group: voted([each.mean(axis=0) for each in readers.values()])
        for group, readers in seen.items()
    }
    return {name: each for name, each in found.items() if each is not None}


def thinned(evidence: Evidence, samples: int) -> Evidence:
    """Return the same evidence with at most so many samples, evenly spread over all of them."""
    assert evidence.samples is not None
    inputs = evidence.samples.inputs
    places = np.linspace(0, len(inputs) - 1, min(samples, len(inputs))).astype(np.int64)
    chosen = inputs[torch.from_numpy(places).to(inputs.device)]
    return Evidence(evidence.model, evidence.groups, Samples(chosen))
