"""The command line in this process: what a test needs, without two seconds of imports each."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from autoprune.cli.main import main


def command(
    *words: str, cwd: Path | None = None, variables: dict[str, str] | None = None
) -> CompletedProcess[str]:
    """Run `autoprune WORDS…` and return what it printed, and its exit code."""
    output, errors = StringIO(), StringIO()
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    code: object = 0
    with (
        patch.object(sys, "argv", ["autoprune", *words]),
        patch.object(sys, "path", list(sys.path)),
        patch.dict(os.environ, {"COLUMNS": "200", **(variables or {})}),
        redirect_stdout(output),
        redirect_stderr(errors),
        warnings.catch_warnings(),
        chdir(cwd or Path.cwd()),
    ):
        warnings.simplefilter("ignore")
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)
    assert code is None or isinstance(code, int)
    return CompletedProcess(words, code or 0, output.getvalue(), errors.getvalue())
