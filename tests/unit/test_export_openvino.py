"""OpenVINO files: the contract, every family of networks, whole numbers, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from autoprune.contracts.exporter import Candidate, NetworkExporter
from autoprune.errors import ExportError
from autoprune.exporters import openvino_exporter
from autoprune.exporters.openvino_exporter import OpenVino
from autoprune.policy import LayerDecision
from tests import exporting
from tests.unit.test_deployment_export import made

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def digits() -> Candidate:
    return exporting.digits()


class TestOpenVino(exporting.DigitsContract):
    def make(self) -> NetworkExporter:
        return OpenVino()


@pytest.mark.parametrize(
    "family",
    ["vit", *(pytest.param(x, marks=pytest.mark.slow) for x in ("cifar_resnet20", "lstm"))],
)
def test_every_family_leaves(family: str, tmp_path: Path) -> None:
    candidate = exporting.pruned(family)
    exported = OpenVino().export(candidate, tmp_path / "a.xml")
    assert exported.others == (tmp_path / "a.bin",)
    assert exported.max_error <= OpenVino.tolerance
    # Kernels in float32; lower precisions would be another network.
    stored = sum(each.numel() for each in candidate.network.parameters())
    assert (tmp_path / "a.bin").stat().st_size > 3.5 * stored


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    candidate = made(LayerDecision(7, 8))
    exported = OpenVino().export(candidate, tmp_path / "a.xml")
    assert exported.unit == "times what the rounding of inputs changes"
    kernels = sum(each.numel() for each in candidate.network.parameters())
    assert (tmp_path / "a.bin").stat().st_size < 1.5 * kernels


def test_where_outputs_differ_by_saturation_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.runtimes.processor.saturates", lambda: True)
    monkeypatch.setattr(openvino_exporter, "difference", lambda *_: 9.0)
    with pytest.raises(ExportError, match=r"differ by 9.*saturate in OpenVINO.*at most 7 bits"):
        OpenVino().export(made(LayerDecision(8, 8)), tmp_path / "a.xml")
    with pytest.raises(ExportError, match=r"nothing was kept$"):
        OpenVino().export(made(LayerDecision(7, 8)), tmp_path / "a.xml")
    assert not list(tmp_path.iterdir())


def test_without_openvino_it_says_what_to_install(
    digits: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"autoprune\[openvino\]"):
        OpenVino().export(digits, tmp_path / "a.xml")


@pytest.mark.parametrize(
    "forged",
    [
        'shape="1073741824, 64" offset="0" size="274877906944"',
        'shape="1073741824, 64" offset="0" size="576"',
        'shape="16, 1, 3, 3" offset="99999999999" size="576"',
    ],
)
def test_tensors_larger_than_their_file_are_refused(
    digits: Candidate, tmp_path: Path, forged: str
) -> None:
    path = OpenVino().export(digits, tmp_path / "a.xml").path
    first = 'shape="16, 1, 3, 3" offset="0" size="576"'
    assert first in path.read_text()
    path.write_text(path.read_text().replace(first, forged))
    with pytest.raises(ExportError, match="cannot read"):
        OpenVino().opened(path)


def test_outputs_do_not_depend_on_the_batch(digits: Candidate, tmp_path: Path) -> None:
    OpenVino().export(digits, tmp_path / "a.xml")
    run = OpenVino().opened(tmp_path / "a.xml")
    single = torch.cat([run(each[None]) for each in digits.example])
    torch.testing.assert_close(single, run(digits.example))
