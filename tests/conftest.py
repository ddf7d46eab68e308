"""What tests share: one thread, a trained digits network, and a job on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Ray reads this once per process; a token that happens to lie in a home directory must not
# decide how tests run.
os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network as the demo trains it."""
    path = tmp_path_factory.mktemp("digits") / "digits_cnn.safetensors"
    script = ROOT / "examples" / "train_digits.py"
    subprocess.run([sys.executable, str(script), "--out", str(path)], check=True, timeout=120)
    return path


@pytest.fixture
def digits_job(digits_checkpoint: Path) -> Mapping[str, Any]:
    """A small serial search on digits: seconds, not minutes."""
    return {
        "name": "digits",
        "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
        "data": {"name": "digits"},
        "space": {"name": "layerwise", "keep_ratio": [0.1, 1.0]},
        "searchers": ["nsga2", "tpe"],
        "baselines": {"searchers": ["uniform", "random"], "trials": 4},
        "rungs": [{"repair_images": 200, "images": 200}],
        "budget": {"trials": 12},
        "resources": {"workers": "serial", "device": "cpu"},
    }


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The networks that are converted to ONNX in full from now on."""
    from autoprune.runtimes import conversion

    converted: list[Any] = []
    convert = conversion.exported

    def counted(network: Any, example: Any, **options: Any) -> Any:
        converted.append(network)
        return convert(network, example, **options)

    monkeypatch.setattr(conversion, "exported", counted)
    return converted
