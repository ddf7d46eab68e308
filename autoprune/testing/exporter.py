"""Suite for exporters: inherit, and give an exporter and a candidate.

class TestMine(ExporterContract):
    def make(self):
        return Mine()

    def candidate(self):
        return Candidate(network.eval(), inputs, provenance)
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from autoprune.contracts.exporter import Candidate, Exporter
from autoprune.errors import ExportError


class ExporterContract:
    """What every exporter promises."""

    def make(self) -> Exporter:
        """Return the exporter under test."""
        raise NotImplementedError

    def candidate(self) -> Candidate:
        """Return a network with inputs and provenance, as the engine hands it over."""
        raise NotImplementedError

    def test_the_file_gives_the_networks_outputs(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.candidate()
        path = tmp_path / f"network{exporter.suffix}"
        exported = exporter.export(candidate, path)
        assert exported.path == path
        assert exported.size_bytes == path.stat().st_size > 0
        assert 0 <= exported.max_error <= exporter.tolerance
        assert [each.name for each in tmp_path.iterdir()] == [path.name]
        outputs = exporter.read_outputs(path, candidate)
        assert exporter.difference(outputs, candidate) <= exporter.tolerance
        with torch.inference_mode():
            expected = candidate.network(candidate.example)
        # Exact up to rounding in float32, unless the exporter has a measure of its own.
        if not exporter.unit:
            torch.testing.assert_close(outputs, expected, atol=exporter.tolerance, rtol=0)
        assert outputs.shape == expected.shape

    def test_the_file_takes_other_batch_sizes(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.candidate()
        path = tmp_path / f"network{exporter.suffix}"
        exporter.export(candidate, path)
        single = Candidate(candidate.network, candidate.example[:1], candidate.provenance)
        assert exporter.read_outputs(path, single).shape[0] == 1

    def test_the_file_does_not_need_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exporter, candidate = self.make(), self.candidate()
        (tmp_path / "elsewhere").mkdir()
        path = tmp_path / f"network{exporter.suffix}"
        exporter.export(candidate, path)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert len(exporter.read_outputs(path, candidate)) == len(candidate.example)

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "taken"
        path.write_text("mine")
        with pytest.raises(ExportError, match="exists already"):
            self.make().export(self.candidate(), path)
        assert path.read_text() == "mine"
        assert os.listdir(tmp_path) == ["taken"]

    def test_a_missing_directory_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="does not exist"):
            self.make().export(self.candidate(), tmp_path / "no" / "file")

    def test_a_file_that_does_not_agree_is_not_kept(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.candidate()
        other = copy.deepcopy(candidate.network)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.5)
        write = exporter.write
        wrong = Candidate(other, candidate.example, candidate.provenance)
        with (
            patch.object(exporter, "write", lambda _, path: write(wrong, path)),
            pytest.raises(ExportError, match="differ"),
        ):
            exporter.export(candidate, tmp_path / f"network{exporter.suffix}")
        assert os.listdir(tmp_path) == []

    def test_a_write_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        exporter = self.make()

        def broken(_: Candidate, path: Path) -> None:
            path.write_text("half")
            raise OSError("disk full")

        with patch.object(exporter, "write", broken), pytest.raises(OSError, match="disk full"):
            exporter.export(self.candidate(), tmp_path / f"network{exporter.suffix}")
        assert os.listdir(tmp_path) == []

    def test_a_file_that_cannot_be_read_back_is_not_kept(self, tmp_path: Path) -> None:
        exporter = self.make()

        def broken(*_: object) -> None:
            raise RuntimeError("unreadable")

        with (
            patch.object(exporter, "read_outputs", broken),
            pytest.raises(RuntimeError, match="unreadable"),
        ):
            exporter.export(self.candidate(), tmp_path / f"network{exporter.suffix}")
        assert os.listdir(tmp_path) == []

    def test_the_candidate_is_left_as_it_was(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.candidate()
        network, provenance = candidate.network, copy.deepcopy(candidate.provenance)
        state = {name: each.clone() for name, each in network.state_dict().items()}
        modes = [module.training for module in network.modules()]
        exporter.export(candidate, tmp_path / f"network{exporter.suffix}")
        assert [module.training for module in network.modules()] == modes
        assert candidate.provenance == provenance
        assert list(network.state_dict()) == list(state)
        for name, each in network.state_dict().items():
            assert torch.equal(each, state[name])
