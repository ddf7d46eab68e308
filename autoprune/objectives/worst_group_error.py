"""Error of the worst group."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from autoprune.contracts.objective import Subject
from autoprune.objectives._groups import GroupObjective
from autoprune.trial import Measurement


class WorstGroupError(GroupObjective):
    """Largest top-1 error of a group: of a class, or of those that the data names.

    Args:
        smallest: groups with fewer samples are not judged, but named in the note.
    """

    name: ClassVar[str] = "worst_group_error"

    def measure(self, subject: Subject) -> Measurement:
        """Return that group's error with its Wilson interval; parts: the error of each group.

        The interval does not know that the group was chosen as the worst. Raises `InputError`
        if every group is too small.
        """
        assert subject.predictions is not None
        counted = self.errors(subject.predictions)
        errors = counted.parts(0)
        judged = [
            errors[name]
            for name, size in zip(counted.groups, counted.sizes, strict=True)
            if size >= self.smallest
        ]
        if not judged:
            raise self.too_few("a group", counted)
        worst = max(judged, key=lambda each: each.value)
        return replace(worst, note=self.note(counted), parts=errors)
