"""One evaluation of a comparison: a method, a share and a seed, and what came of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from autoprune.comparison.method import Method
from autoprune.trial import Failure, Measurement

Measured: TypeAlias = Mapping[str, Mapping[str, Measurement]]
"""Split → metric → value: `search` is V, `report` is T."""
Key: TypeAlias = tuple[Method, float, int]
"""Method, share and seed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured of one network: its metrics on V and T, and on which samples of T its
    class is wrong, shape (samples,); or why there is nothing.

    `network` is equal for networks that are equal: the same is kept, by the same recovery and
    seed where these matter.
    """

    network: str = ""
    measured: Measured = field(default_factory=dict)
    wrong: np.ndarray | None = None
    seconds: float = 0.0
    failure: Failure | None = None

    @property
    def is_final(self) -> bool:
        """Say whether another attempt would end the same way."""
        return self.failure is None or self.failure.kind.is_deterministic

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; notes and parts of measurements are left out."""
        return {
            "network": self.network,
            "seconds": self.seconds,
            "failure": self.failure.to_json() if self.failure else None,
            "measured": measured_json(self.measured),
            "wrong": None if self.wrong is None else _packed(self.wrong),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Outcome:
        """Rebuild an outcome from `to_json`."""
        failure, wrong = body["failure"], body["wrong"]
        return cls(
            body["network"],
            measured_of(body["measured"]),
            None if wrong is None else _unpacked(wrong),
            body["seconds"],
            None if failure is None else Failure.from_json(failure),
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """An outcome, and whose it is."""

    method: Method
    share: float
    seed: int
    outcome: Outcome

    @property
    def key(self) -> Key:
        """Whose it is; a comparison has one entry for each."""
        return self.method, self.share, self.seed

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal entry."""
        own = {"share": self.share, "seed": self.seed}
        return {**self.method.to_json(), **own, **self.outcome.to_json()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Entry:
        """Rebuild an entry from `to_json`."""
        method = Method(body["criterion"], body["recovery"])
        return cls(method, body["share"], body["seed"], Outcome.from_json(body))


@dataclass(frozen=True, slots=True)
class Scoring:
    """What asking a criterion took, measured alone, and what it tells nothing of.

    `fallen_back` are groups, or kernels where single weights leave.
    """

    seconds: float
    fallen_back: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal scoring."""
        return {"seconds": self.seconds, "fallen_back": list(self.fallen_back)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Scoring:
        """Rebuild a scoring from `to_json`."""
        return cls(body["seconds"], tuple(body["fallen_back"]))


def measured_json(measured: Measured) -> dict[str, Any]:
    """Return metrics by split as JSON: value, low and high of each."""
    return {
        split: {name: each.to_json()[:3] for name, each in metrics.items()}
        for split, metrics in measured.items()
    }


def measured_of(body: Mapping[str, Any]) -> Measured:
    """Rebuild metrics by split from `measured_json`."""
    return {
        split: {name: Measurement.from_json(each) for name, each in metrics.items()}
        for split, metrics in body.items()
    }


def _packed(wrong: np.ndarray) -> dict[str, Any]:
    bits = base64.b64encode(np.packbits(wrong).tobytes()).decode("ascii")
    return {"samples": len(wrong), "bits": bits}


def _unpacked(body: Mapping[str, Any]) -> np.ndarray:
    packed = np.frombuffer(base64.b64decode(body["bits"]), dtype=np.uint8)
    return np.unpackbits(packed, count=body["samples"]).astype(bool)
