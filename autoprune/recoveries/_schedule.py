"""Learning rates as functions of the step alone."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "constant", "rewind"]


def share_of_rate(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """Return the share of the learning rate that a step of `steps` takes, in (0, 1].

    `cosine` falls to zero (Loshchilov and Hutter, ICLR 2017). `rewind` is learning-rate
    rewinding (Renda et al., ICLR 2020): the last part of the original training once more. How
    a network was trained its checkpoint does not say; taken is what residual networks were
    first trained with, a tenth of the rate at a half and again at three quarters (He et al.,
    CVPR 2016), from a quarter on: a third of the steps at each of the three rates. For the
    first `warmup` of the steps it rises from zero to that.
    """
    share = 1.0
    if schedule == "cosine":
        share = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    elif schedule == "rewind":
        share = 0.1 ** (3 * step // steps)
    return share * min(1.0, (step + 1) / (warmup * steps)) if warmup else share
