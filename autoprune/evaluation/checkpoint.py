"""Checkpoints of recoveries among the files of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autoprune.contracts.recovery import Checkpoint
from autoprune.evaluation.keyed_file import KeyedFile

EVERY_S = 30.0
"""Seconds between two checkpoints: what a killed recovery loses at most, beside writing one."""


class FileCheckpoint(Checkpoint):
    """A checkpoint in a file; without a file nothing is ever due, and nothing is found.

    The first one is due after `every_s` seconds, so that short recoveries write none.
    """

    def __init__(self, file: KeyedFile | None, every_s: float = EVERY_S) -> None:
        self.file = file
        self.every_s = every_s
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Say whether the last one is old enough."""
        return self.file is not None and time.monotonic() - self._last >= self.every_s

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what another attempt has left; what is damaged is passed over."""
        return None if self.file is None else self.file.read()

    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write the file anew, whole or not at all."""
        assert self.file is not None
        self.file.write(tensors, about)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the file: nobody will go on from here."""
        if self.file is not None:
            self.file.remove()
