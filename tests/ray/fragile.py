"""An evaluator that can be built only while a file is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import DataError
from autoprune.testing.evaluators import ScriptedEvaluator


class FragileEvaluator(ScriptedEvaluator):
    """Raises in its constructor once `path` is gone."""

    def __init__(self, *, path: str) -> None:
        super().__init__()
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} is needed")


class FiledEvaluator(ScriptedEvaluator):
    """Scripted; may keep files, and keeps none."""

    def __init__(self, *, files: str) -> None:
        super().__init__()
        self.files = files


def no_material(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raise as a data source does that finds nothing."""
    raise DataError(f"there is nothing at {options['path']}")
