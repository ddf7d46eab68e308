"""Ctrl-C at the right moment: never between a commit and what follows from it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptGate:
    """Holds Ctrl-C and SIGTERM back until the next `passage`, where nothing is half done.

    with InterruptGate() as gate:
        commit()                          # Ctrl-C now is remembered …
        with gate.passage():              # … and raised as KeyboardInterrupt here
            executor.wait(0.2)            # or in here, at once

    Outside the main thread Python delivers no signals, and the gate does nothing.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._is_pending = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {each: signal.signal(each, self._on_signal) for each in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    @contextmanager
    def passage(self) -> Iterator[None]:
        """Let Ctrl-C through: the one held back, and any that comes meanwhile."""
        self._is_open = True
        try:
            if self._is_pending:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_open = False

    def interrupt(self) -> None:
        """Do what Ctrl-C does, from another thread: the next passage raises."""
        self._is_pending = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_pending = True
        if self._is_open:
            raise KeyboardInterrupt
