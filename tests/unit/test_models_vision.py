"""torchvision works beside a CPU-only torch, and a working one is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoprune import vision

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import torch
from autoprune.vision import ensure_torchvision

torch.set_num_threads(1)
ensure_torchvision()
ensure_torchvision()
import torchvision

model = torchvision.models.resnet18(weights=None, num_classes=7).eval()
with torch.inference_mode():
    print(tuple(model(torch.zeros(2, 3, 64, 64)).shape))
ensure_torchvision()
"""


def test_resnet18_runs_in_a_fresh_process() -> None:
    # Fresh, because any other test may have imported torchvision in this one.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 7)"


def test_an_imported_torchvision_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("torchvision is there already")

    monkeypatch.setitem(sys.modules, "torchvision", sys)
    monkeypatch.setattr(vision, "_declared_operators", refuse)
    vision.ensure_torchvision()


def test_nothing_is_declared_where_the_binary_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert vision._declared_operators.__wrapped__() is None
    assert [Path(each).name.split(".")[0] for each in loaded] == ["_C"]
