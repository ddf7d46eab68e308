"""What was acknowledged survives a writer that is killed, or whose disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from autoprune.store.sql import SqlStore

GROUP = 3

WRITER = """
import sys
from autoprune.contracts.store import Entry, EventKind
from autoprune.store.sql import SqlStore
path, group = sys.argv[1], int(sys.argv[2])
store = SqlStore(path)
if not store.jobs():
    store.create_job("a", {})
number = len(store.trials("a"))
while True:
    body = {"x": "y" * 500}
    entries = [Entry(EventKind.ASKED, trial=number + each, body=body) for each in range(group)]
    number += group
    events = store.append("a", entries)
    print(events[-1].seq, flush=True)
"""

FULL_DISK = """
import resource, signal, sys
from autoprune.contracts.store import Entry, EventKind
from autoprune.errors import StoreUnavailableError
from autoprune.store.sql import SqlStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
entries = [Entry(EventKind.OPENED, body={"x": "y" * 2000})] * 10
with SqlStore(sys.argv[1]) as store:
    store.create_job("a", {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    acknowledged = 0
    try:
        while True:
            acknowledged = store.append("a", entries)[-1].seq
    except StoreUnavailableError as error:
        print(error, file=sys.stderr)
    assert 10 <= acknowledged < 1000, acknowledged
    assert len(list(store.events("a"))) == acknowledged
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert store.append("a", entries)[0].seq == acknowledged + 1
    print(acknowledged + 10)
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_killed_writer_loses_no_acknowledged_append(tmp_path: Path) -> None:
    path, newest = tmp_path / "store.db", 0
    for rounds in (4, 17):
        command = [sys.executable, "-c", WRITER, str(path), str(GROUP)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=_environment()
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(rounds)]
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        assert writer.returncode == -signal.SIGKILL
        assert acknowledged[0] == newest + GROUP  # it went on after the last whole group
        with SqlStore(path, read_only=True) as view:  # a view must not need the writer back
            seqs = [event.seq for event in view.events("a")]
            # What is derived is written with its events.
            assert [row["seq"] for row in view.trials("a")] == seqs
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) % GROUP == 0  # all of an append or nothing
        assert acknowledged[-1] <= len(seqs) <= acknowledged[-1] + GROUP
        newest = len(seqs)


def test_a_full_disk_refuses_the_append_and_work_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cannot append to job 'a'" in done.stderr
    with SqlStore(path) as store:
        assert len(list(store.events("a"))) == int(done.stdout)


def _killed(directory: Path) -> tuple[Path, dict[Path, bytes]]:
    """Return a store whose writer was killed after six appends, and what lay on the disk."""
    path = directory / "store.db"
    code = WRITER.replace("while True:", "for _ in range(6):")
    code += "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(GROUP)],
        stdout=subprocess.DEVNULL,
        env=_environment(),
        timeout=60,
        check=False,
    )
    # Shared memory does not outlive the machine.
    return path, {x: x.read_bytes() for x in directory.iterdir() if x.suffix != ".db-shm"}


def _count(path: Path) -> int:
    """Return how many events a store holds, all of them readable and without a gap."""
    with SqlStore(path) as store:
        assert store.damage() is None
        seqs = [event.seq for event in store.events("a")]
        assert seqs == list(range(1, len(seqs) + 1))
        assert [row["seq"] for row in store.trials("a")] == seqs
        return len(seqs)


def test_a_torn_tail_of_the_wal_loses_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    path, files = _killed(tmp_path)
    wal = path.with_name(f"{path.name}-wal")
    whole = files[wal]
    torn = [
        whole,
        whole + os.urandom(1000),  # the next transaction had begun, and is torn
        whole + whole[32:4200],  # frames of an earlier one stand where it would
        whole + bytes(8192),
    ]
    for content in torn:
        _restore(tmp_path, {**files, wal: content})
        assert _count(path) == 6 * GROUP


def test_a_wal_whose_last_frame_is_damaged_loses_that_append_and_no_more(tmp_path: Path) -> None:
    """Nothing saves what the disk itself lost after it was flushed; the log stays whole."""
    path, files = _killed(tmp_path)
    wal = path.with_name(f"{path.name}-wal")
    whole = files[wal]
    flipped = bytearray(whole)
    flipped[-100] ^= 0xFF
    for content in (whole[:-1], whole[:-4000], bytes(flipped)):
        _restore(tmp_path, {**files, wal: content})
        assert _count(path) == 5 * GROUP


def _restore(directory: Path, files: dict[Path, bytes]) -> None:
    for each in directory.iterdir():
        each.unlink()
    for path, content in files.items():
        path.write_bytes(content)
