"""Recipes for LLM Compressor, read by compressed-tensors itself in an environment of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.exporters.llm_compressor_exporter import LlmCompressor
from autoprune.models import digits_cnn
from autoprune.policy import LayerDecision
from tests.environments import interpreter, run
from tests.handing_over import bits_only, with_layers

PEER = Path(__file__).with_name("compressed_tensors_peer.py")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_layers_get_the_bits_of_the_policy(tmp_path: Path) -> None:
    python = interpreter("compressed-tensors", "compressed-tensors==0.20.0")
    layers = {"hidden": LayerDecision(3, 32), "output": LayerDecision(8, 7)}
    candidate = with_layers(bits_only(), layers)
    path = LlmCompressor().export(candidate, tmp_path / "knee.yaml").path
    printed = run([str(python), str(PEER), str(path), str(digits_cnn.__file__), "DigitsCnn"])
    # Bits of kernels and inputs, and a step for every output channel.
    assert json.loads(printed.splitlines()[-1]) == {
        "hidden": [3, None, [64, 1]],
        "output": [8, 7, [10, 1]],
    }
