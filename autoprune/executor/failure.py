"""What kind of failure an exception is."""

from __future__ import annotations

from autoprune.errors import InputError, NonFiniteError
from autoprune.trial import Failure, FailureKind


def failure_of(error: BaseException) -> Failure:
    """Classify an exception raised by an evaluation."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, NonFiniteError):
        return Failure(FailureKind.NONFINITE, str(error))
    if isinstance(error, InputError):
        return Failure(FailureKind.INVALID, message)
    if isinstance(error, MemoryError):
        return Failure(FailureKind.OOM_HOST, message)
    # By name: classifying an error must not import torch where it is not in use.
    if type(error).__name__ == "OutOfMemoryError":
        return Failure(FailureKind.OOM_GPU, message)
    return Failure(FailureKind.CRASH, message)
