"""Exceptions of autoprune.

Every error a user can cause is an `InputError`; the command line turns it into one
message and exit code 2. Everything else is a fault of the system around us.

    AutopruneError
    ├── InputError               what was given cannot be used
    │   ├── JobError             a job file; carries every violation found
    │   ├── PluginError          a plug-in name or its options
    │   ├── ModelError           a model that cannot be built, loaded or traced
    │   ├── DataError            data that is missing or does not fit
    │   ├── PolicyError          a policy for other groups, or one that empties a group
    │   ├── RunError             a run directory that is missing, taken or of another job
    │   └── ExportError          an export that cannot be written, or that failed its check
    ├── NonFiniteError           training or measurement produced NaN or infinity
    ├── StoreError               the log cannot be read or written
    │   ├── StoreUnavailableError    … just now; the same call may succeed later
    │   ├── JobHeldError         another controller drives the job
    │   └── FencedError          this controller's job was taken over by another one
    ├── ExecutorError            workers cannot be started or have gone for good
    ├── ServiceError             a server that does not answer, or that fails
    └── AccessError              a server that does not let us in, or not do this
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class AutopruneError(Exception):
    """Base of every exception that autoprune raises on purpose."""


class InputError(AutopruneError):
    """What the user gave cannot be used; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: where it stands, what was given, and what is allowed."""

    path: str
    given: object
    rule: str

    def __str__(self) -> str:
        return f"{self.path}: {self.rule} (given: {self.given!r})"


class JobError(InputError):
    """A job that breaks one or more rules; `violations` holds all of them."""

    def __init__(self, violations: Sequence[Violation], source: str = "job") -> None:
        self.violations = tuple(violations)
        count = len(self.violations)
        head = f"{source} has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n".join([head, *(f"  {violation}" for violation in self.violations)]))


class PluginError(InputError):
    """An unknown plug-in, or options that it does not take."""


class ModelError(InputError):
    """A model that cannot be built, loaded or traced."""


class DataError(InputError):
    """Data that is missing or does not fit the job."""


class PolicyError(InputError):
    """A policy that does not fit the network it is meant for."""


class RunError(InputError):
    """A run directory that is missing, taken, or belongs to another job."""


class ExportError(InputError):
    """An export that cannot be written, or whose read-back does not agree."""


class NonFiniteError(AutopruneError):
    """Training or measurement produced NaN or infinity; the message names the step."""


class VerificationError(AutopruneError):
    """An exported file is whole, and yet not what it claims to be."""


class StoreError(AutopruneError):
    """The log cannot be read or written."""


class StoreUnavailableError(StoreError):
    """The storage cannot serve just now: a full disk, a lock of others, a lost connection."""


class JobHeldError(StoreError):
    """The lease of another controller on the job still runs."""


class FencedError(StoreError):
    """Another controller took the job over; this one may not write any more."""


class ExecutorError(AutopruneError):
    """Workers cannot be started, or have gone for good."""


class ServiceError(AutopruneError):
    """A server does not answer, or fails; the message says what to check."""


class AccessError(AutopruneError):
    """A server does not know who asks, or does not let him do this."""


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Return a sentence that lists `allowed` and points at the nearest match of `name`."""
    names = sorted(allowed)
    listing = ", ".join(names) if names else "none"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"allowed: {listing}{hint}"
