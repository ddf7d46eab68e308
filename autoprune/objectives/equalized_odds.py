"""Equalized odds."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.objective import Subject
from autoprune.objectives._groups import Tally, by_group
from autoprune.objectives._parity import Parity, compared
from autoprune.trial import Measurement


class EqualizedOdds(Parity):
    """Widest gap, between groups, in true or false positive rate (fairlearn's difference).

    Of several classes, each against the rest, the one with the widest gap counts. Source:
    Hardt et al., "Equality of opportunity in supervised learning" (NeurIPS 2016).

    Args:
        smallest: rates of fewer samples are not judged, but named in the note.
    """

    name: ClassVar[str] = "equalized_odds"

    def measure(self, subject: Subject) -> Measurement:
        """Return the gap with its Newcombe interval; parts: that rate in each group.

        Raises `InputError` for groups that are missing, and where all rates are of too few.
        """
        import torch

        assert subject.predictions is not None
        logits, labels = subject.predictions.logits, subject.predictions.labels
        groupings, count = self.groupings(subject.predictions), logits.shape[1]
        predicted = logits.argmax(dim=1)
        true = by_group(groupings, 2 * labels + (predicted == labels), 2 * count)
        selected = by_group(groupings, predicted, count)
        counts = torch.cat([true[:, 0::2], true[:, 1::2], selected], dim=1).cpu().numpy()
        missed, found, selected_of = np.split(counts, 3, axis=1)
        positives = missed + found
        sizes = positives.sum(axis=1)
        classes = compared(count)
        rates = [
            f"{kind} positive rate of class {each}"
            for kind in ("true", "false")
            for each in classes
        ]
        hits = np.hstack([found[:, classes], (selected_of - found)[:, classes]])
        totals = np.hstack([positives[:, classes], (sizes[:, None] - positives)[:, classes]])
        return self.gap(Tally.of(groupings, sizes, tuple(rates), hits, totals))
