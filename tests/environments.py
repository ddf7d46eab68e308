"""Environments of their own, for packages that cannot live beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TORCH = "torch==2.13.0"
"""Pinned, so that nothing brings a torch with gigabytes of CUDA packages."""
_PATIENCE_S = 600.0


def interpreter(name: str, *packages: str) -> Path:
    """Return the interpreter of `runs/NAME-venv`, which is made if it is not there.

    Skips the test where the packages cannot be had.
    """
    directory = ROOT / "runs" / f"{name}-venv"
    python = directory / "bin" / "python"
    made = directory / ".installed"
    wanted = "\n".join((*packages, TORCH))
    if not made.exists() or made.read_text() != wanted:
        run([sys.executable, "-m", "venv", "--clear", str(directory)])
        try:
            run([str(python), "-m", "pip", "install", "--quiet", *packages, TORCH])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot install {', '.join(packages)}: {error.stderr.strip()[-300:]}")
        made.write_text(wanted)
    return python


def run(command: list[str]) -> str:
    """Return what a command prints, of which our own packages are hidden."""
    hidden = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_PATIENCE_S, env=hidden
    )
    return done.stdout
