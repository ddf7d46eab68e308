"""Training that a searcher needs before it can propose: requested, then done in slices.

    searcher.training                 # TrainingRequest(...): nothing can be asked yet
    item = TrainingItem("metapruning", request)
    progress = evaluator.train(item)  # one slice; its checkpoint lies among the run's files
    searcher.trained(progress)        # done of total steps; once complete, ask answers

A slice is short, so that a worker is not held for long, and everything that the next one
needs is in its checkpoint: a killed search loses one slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train: `steps` optimiser steps in all, by `options` (JSON values)."""

    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far a training has come.

    `checkpoint` names the file that holds all of it, and `superseded` the one before, which
    may be removed once this progress is known to be kept. `figures` are what people may read of
    the last slice (such as its mean loss), `seconds` is what the last slice took.
    """

    done: int
    total: int
    checkpoint: str
    superseded: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Say whether no slice is left."""
        return self.done >= self.total

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into equal progress."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> TrainingProgress:
        """Rebuild progress from `to_json`."""
        return cls(**body)


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """One slice to run: what the searcher `searcher` requested, from where it stands."""

    searcher: str
    request: TrainingRequest
    progress: TrainingProgress | None = None
    seed: int = 0
    attempt: int = 1

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Names of the files that the slice reads."""
        return (self.progress.checkpoint,) if self.progress else ()
