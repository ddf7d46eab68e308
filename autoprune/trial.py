"""The trial: a policy on its way through one rung, and what was measured of it.

States of a trial. A promotion opens a *new* trial with the same policy one rung up, so
every trial has exactly one terminal event.

    ask ──► WAITING ──dispatch──► RUNNING ──result──► COMPLETED
               │                     ├──failure─────► FAILED
               │                     └──lost or cut─► STOPPED
               └──a hard constraint on a cheap cost─► INFEASIBLE   (never dispatched)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from autoprune.policy import Policy

_NOTHING: Mapping[str, Any] = {}


class TrialState(StrEnum):
    """Where a trial stands; the last four are terminal."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INFEASIBLE = "INFEASIBLE"
    STOPPED = "STOPPED"

    @property
    def is_terminal(self) -> bool:
        """Say whether nothing more can happen to the trial."""
        return self not in (TrialState.WAITING, TrialState.RUNNING)


class FailureKind(StrEnum):
    """Why an attempt failed; decides whether the trial is tried again.

    CRASH                the evaluation raised, or took its process down
    OOM_HOST, OOM_GPU    out of memory
    TIMEOUT              no result within `trial_timeout_s`
    NONFINITE            NaN or infinity in training or measurement
    INVALID              a policy, or a result, that cannot be used
    PREEMPTED            the machine was taken away in an orderly way
    INFRA                the machine, or the way to it, was lost
    """

    CRASH = "CRASH"
    OOM_HOST = "OOM_HOST"
    OOM_GPU = "OOM_GPU"
    TIMEOUT = "TIMEOUT"
    NONFINITE = "NONFINITE"
    INVALID = "INVALID"
    PREEMPTED = "PREEMPTED"
    INFRA = "INFRA"

    @property
    def is_deterministic(self) -> bool:
        """Say whether another attempt would end the same way."""
        return self in (FailureKind.TIMEOUT, FailureKind.NONFINITE, FailureKind.INVALID)

    @property
    def is_blameless(self) -> bool:
        """Say whether the attempt does not count: the trial had no part in its end."""
        return self in (FailureKind.PREEMPTED, FailureKind.INFRA)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt: its kind and a message for people."""

    kind: FailureKind
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with `kind` and `message`."""
        return {"kind": str(self.kind), "message": self.message}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Failure:
        """Rebuild a failure from `to_json`."""
        return cls(FailureKind(body["kind"]), body["message"])


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured value in its objective's unit.

    `low` and `high` bound it with 95 % confidence where that is known. `note` is what must be
    read beside the value: that it is an estimate, that the machine was noisy, what could not
    be judged. `parts` are values that it comes from or goes with, by name: of every group, the
    ratio to the dense network.
    """

    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    parts: Mapping[str, Measurement] = field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        """Say whether the value is a number that can stand in a front."""
        return math.isfinite(self.value)

    def to_json(self) -> list[Any]:
        """Return [value, low, high], then note and parts where there are any."""
        body: list[Any] = [self.value, self.low, self.high]
        if self.note or self.parts:
            body.append(self.note)
        if self.parts:
            body.append({name: each.to_json() for name, each in self.parts.items()})
        return body

    @classmethod
    def from_json(cls, body: Sequence[Any]) -> Measurement:
        """Rebuild a measurement from `to_json`."""
        value, low, high = body[:3]
        note = body[3] if len(body) > 3 else ""
        parts = body[4] if len(body) > 4 else {}
        own = {sys.intern(name): cls.from_json(each) for name, each in parts.items()}
        return cls(value, low, high, note, own or _NOTHING)


@dataclass(frozen=True, slots=True)
class Deployment:
    """The network as a target runs it.

    `metrics` are those that were measured on it; all others were on the network in PyTorch,
    which rounds as the target does. `notes` say what it runs otherwise than decided.
    `file_bytes` is the size of the file that it reads.
    """

    target: str
    metrics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    file_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "target": self.target,
            "metrics": list(self.metrics),
            "notes": list(self.notes),
            "file_bytes": self.file_bytes,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Deployment:
        """Rebuild a deployment from `to_json`."""
        metrics, notes = tuple(body["metrics"]), tuple(body["notes"])
        return cls(body["target"], metrics, notes, body["file_bytes"])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one attempt at one rung measured.

    `measurements` maps metric names to values; `violations` maps constraint texts to the
    amount by which they are broken (> 0), relative to the bound, and `misses` those of soft
    constraints; `phases_s` splits `seconds` into named parts; `weights` names the stored
    weights, where any were kept. `surveys` is what predictors of metrics were built on, by
    metric; only the dense network's evaluation has any. `deployment` says which values were
    measured on the network that is deployed, once it was.
    """

    measurements: Mapping[str, Measurement]
    violations: Mapping[str, float] = field(default_factory=dict)
    misses: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    phases_s: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    device: str = "cpu"
    weights: str | None = None
    surveys: Mapping[str, Any] = field(default_factory=dict)
    deployment: Deployment | None = None

    @property
    def is_feasible(self) -> bool:
        """Say whether no hard constraint is broken."""
        return not self.violations

    def value(self, metric: str) -> float:
        """Return the measured value of `metric`."""
        return self.measurements[metric].value

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal evaluation."""
        return {
            "measurements": {name: each.to_json() for name, each in self.measurements.items()},
            "violations": dict(self.violations),
            "misses": dict(self.misses),
            "seconds": self.seconds,
            "phases_s": dict(self.phases_s),
            "peak_bytes": self.peak_bytes,
            "device": self.device,
            "weights": self.weights,
            "surveys": dict(self.surveys),
            "deployment": self.deployment.to_json() if self.deployment else None,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Evaluation:
        """Rebuild an evaluation from `to_json`."""
        measurements = {
            sys.intern(name): Measurement.from_json(each)
            for name, each in body["measurements"].items()
        }
        # A log of many thousand trials holds the same words and the same nothing many times.
        rest: dict[str, Any] = {x: _NOTHING if each == {} else each for x, each in body.items()}
        rest["device"] = sys.intern(body["device"])
        if body["deployment"] is not None:
            rest["deployment"] = Deployment.from_json(body["deployment"])
        return cls(**{**rest, "measurements": measurements})


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy at one rung, as the log knows it.

    `number` counts from 0 in the order of asking (0 is the dense network); `parent` is
    the trial of the rung below that this one was promoted from; `attempts` counts those
    that failed by the trial's own doing, and the one that completed. `teacher` is the trial
    whose network teaches this one, where it learns from a front.
    """

    number: int
    policy: Policy
    searcher: str
    rung: int = 0
    state: TrialState = TrialState.WAITING
    parent: int | None = None
    attempts: int = 0
    evaluation: Evaluation | None = None
    report: Evaluation | None = None
    failure: Failure | None = None
    teacher: int | None = None


def shown(trial: Trial) -> Evaluation:
    """Return the evaluation that people see: on the report split once it is measured there."""
    evaluation = trial.report or trial.evaluation
    assert evaluation is not None, f"trial {trial.number} has no evaluation"
    return evaluation
