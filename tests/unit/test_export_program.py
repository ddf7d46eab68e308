"""Programs of torch.export: the contract, the seal outside of checksums, and no pickle."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate, NetworkExporter
from autoprune.errors import ExportError
from autoprune.exporters.torch_export_exporter import TorchExport
from autoprune.policy import LayerDecision
from autoprune.seal import open_seal, seal
from tests import exporting
from tests.quantised import every, quantised


@pytest.fixture
def pruned() -> Candidate:
    return exporting.digits()


class TestTorchExport(exporting.DigitsContract):
    def make(self) -> NetworkExporter:
        return TorchExport()


class Branching(nn.Module):
    """Asks its inputs which way to go, which no trace can know."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("family", "dropped"), [*((each, 0) for each in exporting.FAMILIES), ("vit", 2)]
)
def test_every_family_is_exported(family: str, dropped: int, tmp_path: Path) -> None:
    candidate = exporting.pruned(family, dropped=dropped)
    path = tmp_path / "network.pt2"
    assert TorchExport().export(candidate, path).max_error <= TorchExport.tolerance
    run = TorchExport().opened(path)
    with torch.inference_mode():
        for count in (1, 3):
            expected = candidate.network(candidate.example[:count])
            torch.testing.assert_close(run(candidate.example[:count]), expected)


def test_pytorch_alone_reads_a_file(pruned: Candidate, tmp_path: Path) -> None:
    TorchExport().export(pruned, tmp_path / "a.pt2")
    found: dict[str, Any] = {"autoprune.json": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=found)
    assert set(program.state_dict) == set(pruned.network.state_dict())
    assert json.loads(found["autoprune.json"])["trial"] == 17
    torch.testing.assert_close(program.module()(pruned.example), pruned.network(pruned.example))


def test_what_is_said_may_be_longer_than_the_comment_of_a_zip(tmp_path: Path) -> None:
    said = {"job": "long", "groups": ["x" * 100] * 1000}
    candidate = Candidate(nn.Linear(3, 2).eval(), torch.randn(2, 3), said)
    TorchExport().export(candidate, tmp_path / "a.pt2")
    assert TorchExport().provenance_of(tmp_path / "a.pt2")["groups"] == said["groups"]


def test_a_file_follows_from_its_network(pruned: Candidate, tmp_path: Path) -> None:
    for name in ("a.pt2", "b.pt2"):
        TorchExport().export(pruned, tmp_path / name)
    content = (tmp_path / "a.pt2").read_bytes()
    assert content == (tmp_path / "b.pt2").read_bytes()
    for place in (Path.cwd(), Path(torch.__file__).parent, tmp_path):
        assert str(place).encode() not in content


def test_no_inputs_of_anybody_and_no_pickle_are_in_a_file(
    pruned: Candidate, tmp_path: Path
) -> None:
    TorchExport().export(pruned, tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as file:
        assert file.getinfo("archive/data/sample_inputs/model.pt").file_size == 0
        for each in file.namelist():
            assert not file.read(each).startswith((b"PK", b"\x80"))


def test_pickles_are_refused_whoever_sealed_them(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    program = torch.export.export(network, (torch.randn(2, 3),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"autoprune.json": "{}"})
    path = tmp_path / "foreign.pt2"
    with zipfile.ZipFile(buffer, "a") as file:
        file.comment = open_seal().encode()
    path.write_bytes(buffer.getvalue())
    seal(path)
    with pytest.raises(ExportError, match="does not write"):
        TorchExport().opened(path)


@pytest.mark.parametrize("change", ["renamed member", "pickled weight", "no program"])
def test_sealed_files_of_others_are_refused_in_words(
    pruned: Candidate, tmp_path: Path, change: str
) -> None:
    TorchExport().export(pruned, tmp_path / "a.pt2")
    path = tmp_path / "b.pt2"
    with zipfile.ZipFile(tmp_path / "a.pt2") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if change == "renamed member" and name.endswith("weight_0"):
                name = name.replace("weight_0", "weight_0.pt")
            elif change == "pickled weight":
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            elif change == "no program" and name.endswith("model.json"):
                content = b"{}"
            new.writestr(name, content)
        new.comment = open_seal().encode()
    seal(path)
    with pytest.raises(ExportError, match=r"b\.pt2"):
        TorchExport().opened(path)


def test_what_cannot_be_exported_names_what_can(tmp_path: Path) -> None:
    inputs = torch.randn(4, 3)
    linear = nn.Sequential(nn.Linear(3, 2))
    decisions = every(linear, LayerDecision(weight_bits=8, activation_bits=8))
    for network, instead in (
        (quantised(linear, inputs, decisions), "--to onnx_int8"),
        (Branching(), "--to torch"),
    ):
        with pytest.raises(ExportError, match=instead):
            TorchExport().export(Candidate(network.eval(), inputs), tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
