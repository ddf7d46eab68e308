"""Files named by their content are whole or not there, wherever their writer ends."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.artifacts import read_artifact, remove_artifact, write_artifact
from autoprune.errors import RunError

CONTENT = bytes(range(256)) * 4000

# Ends the process right before, or right after, the COUNTth of the steps that reach the disk.
EXITING = """
import io, os, pathlib, sys
from autoprune.artifacts import write_artifact
directory, count, is_after = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "after"
steps = 0

def watched(step):
    def call(*arguments, **options):
        global steps
        steps += 1
        if steps == count and not is_after:
            os._exit(9)
        result = step(*arguments, **options)
        if steps == count:
            os._exit(9)
        return result
    return call

os.fsync = watched(os.fsync)
pathlib.Path.open = watched(pathlib.Path.open)
pathlib.Path.rename = watched(pathlib.Path.rename)
content = bytes(range(256)) * 4000
try:
    write_artifact(directory, content, ".bin")
finally:
    os._exit(0 if steps == 4 else 1)
"""

FULL_DISK = """
import pathlib, resource, signal, sys
from autoprune.artifacts import write_artifact
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    write_artifact(pathlib.Path(sys.argv[1]), bytes(range(256)) * 4000, ".bin")
except OSError:
    sys.exit(28)
"""


def test_content_comes_back_and_equal_content_is_one_file(tmp_path: Path) -> None:
    name = write_artifact(tmp_path, CONTENT, ".bin")
    assert name == f"{hashlib.sha256(CONTENT).hexdigest()}.bin"
    written = (tmp_path / name).stat()
    assert write_artifact(tmp_path, CONTENT, ".bin") == name
    assert (tmp_path / name).stat().st_mtime_ns == written.st_mtime_ns
    assert (tmp_path / name).stat().st_ino == written.st_ino
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert read_artifact(tmp_path, name) == CONTENT


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["open", "flush the file", "rename", "flush the directory"])
def test_a_writer_that_ends_leaves_the_whole_file_or_none(
    tmp_path: Path, step: str, when: str
) -> None:
    count = ["open", "flush the file", "rename", "flush the directory"].index(step) + 1
    assert _run(EXITING, tmp_path, str(count), when) == 9
    is_renamed = count == 4 or (step, when) == ("rename", "after")
    seen = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len(seen) == is_renamed
    assert all(path.read_bytes() == CONTENT for path in seen)
    name = write_artifact(tmp_path, CONTENT, ".bin")  # the next writer is not in its way
    assert read_artifact(tmp_path, name) == CONTENT


def test_the_steps_are_those_that_the_test_above_ends_at(tmp_path: Path) -> None:
    assert _run(EXITING, tmp_path, "0", "before") == 0


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    assert _run(FULL_DISK, tmp_path) == 28
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_altered_file_is_an_error_of_words(tmp_path: Path) -> None:
    name = write_artifact(tmp_path, CONTENT, ".bin")
    (tmp_path / name).write_bytes(CONTENT[:-1])
    with pytest.raises(RunError, match="altered"):
        read_artifact(tmp_path, name)
    remove_artifact(tmp_path, name)
    with pytest.raises(RunError, match="missing"):
        read_artifact(tmp_path, name)
    remove_artifact(tmp_path, name)  # gone already


def _run(code: str, *arguments: str | Path) -> int:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, timeout=60, check=False).returncode
