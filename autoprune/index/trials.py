"""Whole trials of a job, read from its log where an index says that they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoprune.contracts.store import Event, Store
from autoprune.index.job_index import JobIndex
from autoprune.index.lives import TrialOutline
from autoprune.store.history import History
from autoprune.trial import Trial


def trial_from(store: Store, job: str, index: JobIndex, number: int) -> Trial:
    """Return a trial of the job called `job` in `store`, as of the newest event of `index`.

    Raises `RunError` where there is no such trial.
    """
    return trials_from(store, job, index, [number])[0]


def trials_from(store: Store, job: str, index: JobIndex, numbers: Sequence[int]) -> list[Trial]:
    """Return trials in the order of `numbers`, as `trial_from` does but in one go."""
    lives = [_life(index.outline(number)) for number in numbers]
    events = {x.seq: x for x in store.events_at(job, [seq for life in lives for seq in life])}
    return [
        _trial(number, [events[seq] for seq in life])
        for number, life in zip(numbers, lives, strict=True)
    ]


def _life(outline: TrialOutline) -> list[int]:
    """Return the events of a trial, in order, without those that later ones outdo."""
    events = (outline.asked, outline.retried, outline.ended, outline.reported)
    return [seq for seq in events if seq is not None]


def _trial(number: int, life: Iterable[Event]) -> Trial:
    # Other trials do not matter to it: alone, it is the first one of a log of its own.
    alone = (replace(event, seq=seq, trial=0) for seq, event in enumerate(life, 1))
    return replace(History.replay(alone).trials[0], number=number)
