"""The fold of a job's log: trials as they stand after each event.

    history = History.replay(store.events("resnet20"))
    history.trials[3].state               # TrialState.COMPLETED

The same code reads a log of yesterday and follows a running job, so that a resumed
controller and every view agree by construction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from autoprune.contracts.store import Event, EventKind
from autoprune.errors import StoreError
from autoprune.policy import Policy
from autoprune.store.sessions import Sessions
from autoprune.trial import Evaluation, Failure, Trial, TrialState


class History:
    """Everything that the log says about a job's trials."""

    def __init__(self) -> None:
        self.trials: dict[int, Trial] = {}
        self.last_seq = 0
        self.sessions = Sessions()
        self._by_policy: dict[tuple[str, int], int] = {}
        self._open: dict[int, None] = {}

    @classmethod
    def replay(cls, events: Iterable[Event]) -> Self:
        """Return the history of a whole log."""
        history = cls()
        for event in events:
            history.apply(event)
        return history

    @property
    def next_number(self) -> int:
        """The number of the next trial."""
        return len(self.trials)

    @property
    def pending(self) -> list[Trial]:
        """Trials that were asked and have not ended, in the order of asking."""
        return [self.trials[number] for number in self._open]

    @property
    def elapsed_s(self) -> float:
        """Seconds worked: for each session, from OPENED to its last event."""
        return self.sessions.elapsed_s

    @property
    def close_reason(self) -> str | None:
        """Why the last session ended; None while one is open, or ended without saying so."""
        return self.sessions.close_reason

    @property
    def close_detail(self) -> str:
        """What people may want to know of that."""
        return self.sessions.close_detail

    def known(self, policy_sha256: str, rung: int) -> Trial | None:
        """Return the trial that answers, or will answer, a canonical policy at a rung."""
        number = self._by_policy.get((policy_sha256, rung))
        if number is None or self.trials[number].state is TrialState.STOPPED:
            return None
        return self.trials[number]

    def digest(self) -> str:
        """Return a SHA-256 of what was proposed and what came of it, trial by trial.

        When that was, for how long, on what and at which attempt makes no difference, so the
        digest of a serial search that was killed and resumed is that of an uninterrupted one.
        """
        hashed = hashlib.sha256()
        for each in self.trials.values():
            origin = [each.policy.sha256, each.searcher, each.rung, each.parent, each.teacher]
            found = [each.state, _values(each.evaluation), _values(each.report)]
            hashed.update(json.dumps([origin, found], sort_keys=True).encode())
        return hashed.hexdigest()

    def apply(self, event: Event) -> None:
        """Take in the next event; raises `StoreError` if it cannot follow."""
        if event.seq != self.last_seq + 1:
            raise StoreError(f"the log has event {event.seq} after {self.last_seq}: a gap")
        self.sessions.follow(event.seq, event.time, event.kind, event.body)
        if event.kind is EventKind.ASKED:
            self._ask(event)
        elif event.trial is not None:
            trial = self.trials.get(event.trial)
            if trial is None:
                raise StoreError(f"event {event.seq} names trial {event.trial}, never asked")
            self._advance(trial, event)
        self.last_seq = event.seq

    def _ask(self, event: Event) -> None:
        if event.trial != self.next_number:
            raise StoreError(f"event {event.seq} asks trial {event.trial}, not {self.next_number}")
        body = event.body
        policy = Policy.from_json(body["policy"])
        trial = Trial(
            event.trial,
            policy,
            body["searcher"],
            rung=body["rung"],
            parent=body["parent"],
            teacher=body.get("teacher"),
        )
        self.trials[trial.number] = trial
        self._by_policy[policy.sha256, trial.rung] = trial.number
        self._open[trial.number] = None

    def _advance(self, trial: Trial, event: Event) -> None:
        if event.kind is EventKind.REPEATED:
            return
        if event.kind is EventKind.REPORTED:
            if trial.state is not TrialState.COMPLETED:
                raise StoreError(f"event {event.seq} reports trial {trial.number}: {trial.state}")
            self.trials[trial.number] = replace(
                trial, report=Evaluation.from_json(event.body["evaluation"])
            )
            return
        if trial.state.is_terminal:
            raise StoreError(
                f"event {event.seq} is {event.kind} for trial {trial.number}, which already is "
                f"{trial.state}"
            )
        self.trials[trial.number] = replace(trial, **_CHANGES[event.kind](event))
        if event.kind is not EventKind.RETRIED:
            del self._open[trial.number]


def _values(evaluation: Evaluation | None) -> Any:
    return None if evaluation is None else evaluation.to_json()["measurements"]


def _completed(event: Event) -> dict[str, Any]:
    return {
        "state": TrialState.COMPLETED,
        "attempts": event.attempt,
        "failure": None,
        "evaluation": Evaluation.from_json(event.body["evaluation"]),
    }


def _infeasible(event: Event) -> dict[str, Any]:
    return {
        "state": TrialState.INFEASIBLE,
        "evaluation": Evaluation.from_json(event.body["evaluation"]),
    }


def _failed(event: Event) -> dict[str, Any]:
    return {**_retried(event), "state": TrialState.FAILED}


def _retried(event: Event) -> dict[str, Any]:
    return {"attempts": event.attempt, "failure": Failure.from_json(event.body["failure"])}


def _stopped(event: Event) -> dict[str, Any]:
    return {"state": TrialState.STOPPED}


_CHANGES: Mapping[EventKind, Callable[[Event], dict[str, Any]]] = {
    EventKind.COMPLETED: _completed,
    EventKind.INFEASIBLE: _infeasible,
    EventKind.FAILED: _failed,
    EventKind.RETRIED: _retried,
    EventKind.STOPPED: _stopped,
}
