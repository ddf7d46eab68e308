"""The header of a safetensors file, read without its tensors and without torch."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from autoprune.errors import ExportError

KEY = "autoprune"
"""Under which a header holds what autoprune says of a file."""


def read_header(path: Path) -> str:
    """Return what a file says of itself, "" if nothing of ours; raises `ExportError`."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return str((file.metadata() or {}).get(KEY, ""))
    except (OSError, SafetensorError) as error:
        raise ExportError(f"cannot read {path}: {error}") from error
