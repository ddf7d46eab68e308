"""A deadline for foreign Python code that may never end, as graph builders do on some networks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` from within what runs here, at a call of a function past the time.

    Only Python functions are noticed, and only of this thread. A debugger or a measure of
    coverage does not see what runs here, and goes on afterwards.
    """
    deadline = time.monotonic() + seconds
    before = sys.gettrace()

    def stop(frame: FrameType, event: str, arg: Any) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"it took more than {seconds:g} s")

    sys.settrace(stop)
    try:
        yield
    finally:
        sys.settrace(before)
