"""What kind of failure an exception is."""

from __future__ import annotations

import errno

from autoprune.errors import InputError, NonFiniteError
from autoprune.trial import Failure, FailureKind

# How torch words that the host gave it no memory.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REFUSALS = ("DefaultCPUAllocator", "std::bad_alloc")


def failure_of(error: BaseException) -> Failure:
    """Classify an exception raised by an evaluation."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, NonFiniteError):
        return Failure(FailureKind.NONFINITE, str(error))
    if isinstance(error, InputError):
        return Failure(FailureKind.INVALID, message)
    is_refused = isinstance(error, RuntimeError) and any(each in message for each in _REFUSALS)
    if isinstance(error, MemoryError) or is_refused:
        return Failure(FailureKind.OOM_HOST, message)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return Failure(FailureKind.INFRA, message)
    # By name: classifying an error must not import torch where it is not in use.
    if type(error).__name__ == "OutOfMemoryError":
        return Failure(FailureKind.OOM_GPU, message)
    return Failure(FailureKind.CRASH, message)
