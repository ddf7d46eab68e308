"""Demographic parity."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Subject
from autoprune.objectives._groups import Tally, by_group
from autoprune.objectives._parity import Parity, compared
from autoprune.trial import Measurement


class DemographicParity(Parity):
    """Widest gap, between groups, in how often a class is predicted (fairlearn's difference).

    Of several classes, the one with the widest gap counts.

    Args:
        smallest: groups with fewer samples are not judged, but named in the note.
    """

    name: ClassVar[str] = "demographic_parity"

    def measure(self, subject: Subject) -> Measurement:
        """Return the gap with its Newcombe interval; parts: that class's rate in each group.

        Raises `InputError` for groups that are missing or all too small.
        """
        assert subject.predictions is not None
        logits = subject.predictions.logits
        groupings = self.groupings(subject.predictions)
        selected = by_group(groupings, logits.argmax(dim=1), logits.shape[1]).cpu().numpy()
        classes = compared(logits.shape[1])
        rates = tuple(f"selection rate of class {each}" for each in classes)
        return self.gap(Tally.of(groupings, selected.sum(axis=1), rates, selected[:, classes]))
