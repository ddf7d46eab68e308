"""Ctrl-C is held back outside a passage and raised inside."""

from __future__ import annotations

import os
import signal

import pytest

from autoprune.controller.interrupt import InterruptGate


def test_ctrl_c_waits_for_the_next_passage() -> None:
    before = signal.getsignal(signal.SIGINT)
    reached = False
    with InterruptGate() as gate:
        os.kill(os.getpid(), signal.SIGINT)
        committed = True  # would not be reached if the signal had come through
        with pytest.raises(KeyboardInterrupt), gate.passage():
            reached = True
    assert committed
    assert not reached
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_comes_through_inside_a_passage() -> None:
    with InterruptGate() as gate, pytest.raises(KeyboardInterrupt), gate.passage():
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
