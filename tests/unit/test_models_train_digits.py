"""The example that trains the demo network."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from autoprune.data.dataset import Dataset
from autoprune.data.digits import Digits
from autoprune.job.spec import ModelSpec, SplitSpec
from autoprune.models.catalog import build_model

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_digits.py"


def test_it_trains_saves_and_then_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "digits.safetensors"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = re.search(r"test accuracy ([\d.]+)% on 719 images", capsys.readouterr().out)
    assert printed
    assert float(printed[1]) >= 97.0

    raw = Digits().load()
    dataset = Dataset.from_raw(raw, SplitSpec())
    spec = ModelSpec(name="digits_cnn", checkpoint=str(out))
    model = build_model(spec, dataset.num_classes, dataset.input_shape)
    images = torch.from_numpy(raw.test_inputs).permute(0, 3, 1, 2)
    with torch.inference_mode():
        right = model(dataset.normalise(images)).argmax(1).numpy() == raw.test_labels
    assert right.mean() * 100 == pytest.approx(float(printed[1]), abs=0.01)

    written = out.stat().st_mtime_ns
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "exists already" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == written
