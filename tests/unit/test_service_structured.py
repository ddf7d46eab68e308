"""The server's log: lines of JSON that hold no secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from typing import Any

import pytest

from cluster.service.structured import JsonLines, without_secrets

SECRET = "A1b2_C3d4-E5f6" * 3 + "X"
TOKEN = f"autoprune_ci-2_{SECRET}"


def logged(code: str) -> list[dict[str, Any]]:
    """Return what a process writes to its log: pytest has handlers of its own in this one."""
    begin = "import logging, warnings; from cluster.service.structured import *; log_to_stderr()"
    ended = subprocess.run(
        [sys.executable, "-c", f"{begin}\n{code}"], capture_output=True, text=True, check=True
    )
    return [json.loads(each) for each in ended.stderr.splitlines()]


def test_a_record_is_a_line() -> None:
    fields = {"method": "GetJob", "ms": 1.5}
    (line,) = logged(
        "log = logging.getLogger('test')\n"
        f"log.info('a\\nb %s', '\"', extra={{'fields': {fields}}})\n"
        "log.debug('not told')"
    )
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "test", 'a\nb "')
    assert fields.items() <= line.items()


def test_errors_and_warnings_are_lines_too() -> None:
    error, warning = logged(
        f"try:\n    raise ValueError('{TOKEN}')\n"
        f"except ValueError:\n    logging.exception('failed with %s', '{TOKEN}')\n"
        "warnings.warn('overflow')"
    )
    assert "ValueError: autoprune_ci-2_***" in error["traceback"]
    assert SECRET not in json.dumps(error)
    assert "overflow" in warning["message"]


def test_headers_and_clients_that_left_are_not_shown() -> None:
    """A secret with a stray byte in it is a header that is no text, and gRPC would log it."""
    (line,) = logged(
        "log = logging.getLogger('grpc._cython.cygrpc')\n"
        "log.error('Invalid encoding on %s', b'Bearer autoprune_ci_A1b2\\xff_C3d4E5f6')\n"
        "log.error('ExecuteBatchError raised in core by servicer method [%s]', 'WatchFront')\n"
        "log.error('something else')"
    )
    assert line["message"] == "something else"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Bearer {TOKEN}.", "Bearer autoprune_ci-2_***."),
        (f"{TOKEN} {TOKEN}", "autoprune_ci-2_*** autoprune_ci-2_***"),
        ("postgresql://me:hunter2@host/base", "postgresql://me:***@host/base"),
        ("postgresql://:hunter2@host", "postgresql://:***@host"),
        ("at http://host:80/path", "at http://host:80/path"),
        ("autoprune_ci", "autoprune_ci"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    record = logging.LogRecord("test", logging.INFO, "", 0, text, (), None)
    assert json.loads(JsonLines().format(record))["message"] == shown


@pytest.mark.parametrize("part", ["://:", "://a:b", "autoprune_a_", "autoprune_", "x"])
def test_long_texts_take_no_time(part: str) -> None:
    begun = time.perf_counter()
    without_secrets(part * (50_000 // len(part)))
    assert time.perf_counter() - begun < 1.0
