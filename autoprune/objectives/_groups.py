"""Judging by groups of samples: counts on the device, judgement of what is large enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from autoprune.contracts.objective import Grouping, Predictions, Stage
from autoprune.errors import InputError
from autoprune.objectives._intervals import difference, share
from autoprune.objectives._share import Share
from autoprune.trial import Measurement

if TYPE_CHECKING:
    from torch import Tensor

_NAMED = 3  # of those too small to judge


@dataclass(frozen=True, slots=True)
class Tally:
    """Rates of groups: `hits` of `totals`, both (groups, rates) int64.

    The groups of all groupings stand side by side: `groups` are their names, `sizes` (groups,)
    their samples, `spans` the slice of each grouping. `rates` say what was counted; the error
    needs no name.
    """

    groups: tuple[str, ...]
    sizes: np.ndarray
    spans: tuple[slice, ...]
    rates: tuple[str, ...]
    hits: np.ndarray
    totals: np.ndarray

    @classmethod
    def of(
        cls,
        groupings: Sequence[Grouping],
        sizes: np.ndarray,
        rates: tuple[str, ...],
        hits: np.ndarray,
        totals: np.ndarray | None = None,
    ) -> Tally:
        """Return the tally of groupings; `totals` are the sizes where they are not given."""
        names = tuple(name for each in groupings for name in each.names)
        ends = np.cumsum([len(each.names) for each in groupings]).tolist()
        spans = tuple(map(slice, [0, *ends], ends))
        if totals is None:
            totals = np.broadcast_to(sizes[:, None], hits.shape)
        return cls(names, sizes, spans, rates, hits, totals)

    def name(self, group: int, rate: int) -> str:
        """Return what a rate of a group is called in notes and parts."""
        return ": ".join(filter(None, (self.groups[group], self.rates[rate])))

    def share(self, group: int, rate: int) -> Measurement:
        """Return a rate of a group with its interval."""
        return share(int(self.hits[group, rate]), int(self.totals[group, rate]))

    def parts(self, rate: int) -> dict[str, Measurement]:
        """Return a rate of every group that has it."""
        present = np.flatnonzero(self.totals[:, rate]).tolist()
        return {self.name(group, rate): self.share(group, rate) for group in present}


class GroupObjective(Share):
    """A share that is judged by groups.

    A rate of fewer than `smallest` samples is not judged but named in the note. Where the
    objective asks for groups other than the classes, groupings by class are passed over.
    """

    stage: ClassVar[Stage] = Stage.PREDICTIONS

    def __init__(self, *, smallest: int = 20) -> None:
        if smallest < 1:
            raise ValueError(f"smallest must be at least 1, given {smallest}")
        self.smallest = smallest

    def groupings(self, predictions: Predictions) -> tuple[Grouping, ...]:
        """Return the groupings to judge by; raises `InputError` where there are none."""
        found = tuple(
            each
            for each in predictions.groupings
            if not (self.needs_groups and "class" in map(str.strip, each.title.split("&")))
        )
        if not found:
            given = ", ".join(each.title for each in predictions.groupings) or "none"
            other = " other than the classes" if self.needs_groups else ""
            raise InputError(
                f"{self.name} needs groups{other} (given: {given}); name attributes of the data "
                "in data.groups"
            )
        return found

    def errors(self, predictions: Predictions) -> Tally:
        """Return the error of every group."""
        groupings = self.groupings(predictions)
        wrong = predictions.logits.argmax(dim=1) != predictions.labels
        counts = by_group(groupings, wrong.long(), 2).cpu().numpy()
        return Tally.of(groupings, counts.sum(axis=1), ("",), counts[:, 1:])

    def gap(self, counted: Tally) -> Measurement:
        """Return the widest gap that a rate shows between two groups of one grouping.

        The interval is that of the two groups; it does not know that they were chosen as the
        extremes. Raises `InputError` if no two groups can be compared.
        """
        judged = counted.totals >= self.smallest
        rates = counted.hits / np.maximum(counted.totals, 1)
        found = []
        for span in counted.spans:
            above = np.where(judged[span], rates[span], -math.inf)
            below = np.where(judged[span], rates[span], math.inf)
            is_pair = judged[span].sum(axis=0) > 1
            gaps = np.where(is_pair, above.max(axis=0) - below.min(axis=0), -math.inf)
            rate = int(gaps.argmax())
            ends = int(above[:, rate].argmax()), int(below[:, rate].argmin())
            found.append((gaps[rate], rate, span.start + ends[0], span.start + ends[1]))
        widest, rate, most, least = max(found, key=lambda each: each[0])
        if widest == -math.inf:
            raise self.too_few("two groups of one grouping", counted)
        apart = difference(counted.share(most, rate), counted.share(least, rate))
        return replace(apart, note=self.note(counted), parts=counted.parts(rate))

    def note(self, counted: Tally) -> str:
        """Return what is too small to judge, with its samples; an empty text if nothing is."""
        small = []
        for group, size in enumerate(counted.sizes.tolist()):
            if size < self.smallest:
                small.append(f"{counted.groups[group]} ({size})")
                continue
            for rate in np.flatnonzero(counted.totals[group] < self.smallest).tolist():
                small.append(f"{counted.name(group, rate)} ({counted.totals[group, rate]})")
        more = f" and {len(small) - _NAMED} more" if len(small) > _NAMED else ""
        return f"too small to judge: {', '.join(small[:_NAMED])}{more}" if small else ""

    def too_few(self, needed: str, counted: Tally) -> InputError:
        """Return the error to raise where not even `needed` can be judged."""
        advice = "measure on more samples, choose other groups in data.groups, or lower `smallest`"
        head = f"{self.name} needs {needed} with at least {self.smallest} samples"
        return InputError("; ".join(filter(None, (head, self.note(counted), advice))))


def by_group(groupings: Sequence[Grouping], values: Tensor, width: int) -> Tensor:
    """Count each value of `values` (n,), int64 in [0, width), in every group: (groups, width)."""
    import torch

    return torch.cat(
        [
            torch.bincount(each.codes * width + values, minlength=len(each.names) * width)
            for each in groupings
        ]
    ).view(-1, width)
