"""Gap between the groups served best and worst."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Subject
from autoprune.objectives._groups import GroupObjective
from autoprune.trial import Measurement


class AccuracyGap(GroupObjective):
    """Largest minus smallest top-1 accuracy among the groups of one grouping; the widest.

    Args:
        smallest: groups with fewer samples are not judged, but named in the note.
    """

    name: ClassVar[str] = "accuracy_gap"

    def measure(self, subject: Subject) -> Measurement:
        """Return the gap with its Newcombe interval; parts: the error of each group.

        Raises `InputError` if no two groups of one grouping are large enough.
        """
        assert subject.predictions is not None
        return self.gap(self.errors(subject.predictions))
