"""The exporter of whole numbers: its contract, what the file holds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from autoprune.contracts.exporter import Candidate, NetworkExporter
from autoprune.errors import ExportError
from autoprune.exporters.onnx_int8_exporter import OnnxInt8
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.plugins import load
from autoprune.policy import LayerDecision
from autoprune.surgery.folding import fold
from autoprune.testing import NetworkExporterContract
from autoprune.tracing.discovery import discover
from tests.quantised import every, quantised
from tests.zoo.base import enliven


def made(bits: LayerDecision) -> Candidate:
    network = CifarResNet(8).eval()
    enliven(network, seed=1)
    example = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    network = fold(network, discover(network, example).foldable)
    provenance = {"job": "abc", "trial": 3}
    return Candidate(quantised(network, example, every(network, bits)), example, provenance)


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return made(LayerDecision(8, 8))


class TestOnnxInt8(NetworkExporterContract):
    @pytest.fixture(autouse=True)
    def _use(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def make(self) -> NetworkExporter:
        return OnnxInt8()

    def source(self) -> Candidate:
        return self._candidate


def test_its_name_is_that_of_the_file() -> None:
    assert load("exporter", "onnx_int8") is OnnxInt8


def test_the_file_is_small_and_says_where_it_comes_from(
    candidate: Candidate, tmp_path: Path
) -> None:
    exported = OnnxInt8().export(candidate, tmp_path / "a.onnx")
    kernels = sum(each.numel() for each in candidate.network.parameters())
    assert kernels < exported.size_bytes < 1.5 * kernels
    entries = {x.key: x.value for x in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(entries["autoprune"]).items() >= candidate.provenance.items()
    assert b".py" not in (tmp_path / "a.onnx").read_bytes()


@pytest.mark.parametrize("bits", [LayerDecision(4, 32), LayerDecision(3, 5), LayerDecision(16, 16)])
def test_other_bits_are_written_as_well(bits: LayerDecision, tmp_path: Path) -> None:
    assert OnnxInt8().export(made(bits), tmp_path / "a.onnx").max_error <= 2.0


def test_a_network_without_bits_is_refused(tmp_path: Path) -> None:
    floats = Candidate(nn.Linear(3, 2).eval(), torch.randn(2, 3), {})
    with pytest.raises(ExportError, match="use --to onnx, or search with bits"):
        OnnxInt8().export(floats, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
