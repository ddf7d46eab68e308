"""Who pays for the compression."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from autoprune.contracts.objective import Subject
from autoprune.objectives._groups import GroupObjective, Tally, by_group
from autoprune.objectives._intervals import normal
from autoprune.trial import Measurement


class PruneDisparity(GroupObjective):
    """How much more error a group gained, against the dense network, than everybody did.

    The largest over groups of (the change of its error - the change of the whole error); 0 for
    the dense network. Hooker et al., "Characterising bias in compressed models" (2020), show
    that compression can leave the whole error alone and cost some groups much. Tran et al.,
    "Pruning has a disparate impact on model accuracy" (NeurIPS 2022), call a group's change of
    loss its excessive loss and compare groups with each other; here it is the change of error,
    compared with that of all samples.

    Args:
        smallest: groups with fewer samples are not judged, but named in the note.
    """

    name: ClassVar[str] = "prune_disparity"
    compares: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        """Return the disparity with its paired normal interval.

        Parts: the change of error of each group. The interval does not know that the group was
        chosen as the worst. Raises `InputError` if fewer than two groups are large enough.
        """
        assert subject.predictions is not None
        assert subject.dense is not None
        assert subject.dense.predictions is not None
        predictions, dense = subject.predictions, subject.dense.predictions
        groupings = self.groupings(predictions)
        is_wrong = (predictions.logits.argmax(dim=1) != predictions.labels).long()
        was_wrong = (dense.logits.argmax(dim=1) != dense.labels).long()
        # Of every group: how many were mended, stayed as they were, were broken.
        changes = by_group(groupings, is_wrong - was_wrong + 1, 3).cpu().numpy()
        everybody = changes[: len(groupings[0].names)].sum(axis=0)
        counted = Tally.of(groupings, changes.sum(axis=1), ("",), changes[:, 2:])
        judged = changes[counted.sizes >= self.smallest]
        if len(judged) < 2:
            raise self.too_few("two groups", counted)
        worst = max((_excess(each, everybody) for each in judged), key=lambda each: each.value)
        parts = {
            name: normal(*_mean(change))
            for name, change in zip(counted.groups, changes, strict=True)
            if change.any()
        }
        return replace(worst, note=self.note(counted), parts=parts)


def _mean(changes: np.ndarray) -> tuple[float, float]:
    """Return the mean of -1, 0 and 1 that occur `changes` (3,) times, and its variance.

    The variance is NaN where it cannot be known: for fewer than two samples.
    """
    mended, count, broken = int(changes[0]), int(changes.sum()), int(changes[2])
    value = (broken - mended) / count
    if count < 2:
        return value, math.nan
    return value, (broken + mended - count * value**2) / (count - 1) / count


def _excess(group: np.ndarray, everybody: np.ndarray) -> Measurement:
    """Return the group's mean change minus everybody's.

    It is the difference to the mean of all others, who are independent of the group, times
    their share of everybody; the interval follows from that.
    """
    others = everybody - group
    if not others.any():
        return Measurement(0.0, 0.0, 0.0)
    weight = others.sum() / everybody.sum()
    (value, variance), (value_others, variance_others) = _mean(group), _mean(others)
    return normal(
        float(weight * (value - value_others)), float(weight**2 * (variance + variance_others))
    )
