"""Who drives a job: a process of this machine, which can be seen to have died, or an actor."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil


def this_process() -> str:
    """Return a text that tells this process from every other, on any machine, at any time."""
    process = psutil.Process()
    return json.dumps([*_machine(), process.pid, process.create_time()])


def is_dead(owner: str) -> bool:
    """Say whether an owner is a process of this machine that is gone; False where unknown."""
    try:
        *machine, pid, created = json.loads(owner)
    except (ValueError, TypeError):
        return False
    if machine[0] != _machine()[0]:
        return False
    if machine != _machine():
        return True  # the machine has been started anew since
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - created) < 1.0
        return not is_same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def described(owner: str) -> str:
    """Return an owner as people read it."""
    try:
        host, _, pid, _ = json.loads(owner)
    except (ValueError, TypeError):
        return owner
    return f"process {pid} on {host}"


def _machine() -> list[str]:
    # The process ids of a container mean nothing in another one on the same host.
    namespace = os.readlink("/proc/self/ns/pid")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [socket.gethostname(), f"{boot} {namespace}"]
