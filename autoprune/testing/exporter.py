"""Suites for exporters: inherit, and give an exporter and what it exports.

class TestMine(NetworkExporterContract):
    def make(self):
        return Mine()

    def source(self):
        return Candidate(network.eval(), inputs, provenance)

An exporter of policies or runs passes `ExporterContract`.
"""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from autoprune.contracts.exporter import Candidate, Exporter, NetworkExporter, format_of
from autoprune.errors import ExportError


class ExporterContract:
    """What every exporter promises."""

    def make(self) -> Exporter[Any]:
        """Return the exporter under test."""
        raise NotImplementedError

    def source(self) -> Any:
        """Return what is exported, as the engine hands it over."""
        raise NotImplementedError

    def test_what_was_written_is_there(self, tmp_path: Path) -> None:
        exporter = self.make()
        path = tmp_path / f"network{exporter.suffix}"
        exported = exporter.export(self.source(), path)
        files = (exported.path, *exported.others)
        assert exported.path == path
        assert {each.name for each in tmp_path.iterdir()} == {each.name for each in files}
        assert exported.size_bytes == sum(each.stat().st_size for each in files)
        assert all(each.stat().st_size for each in files)
        assert exported.max_error >= 0
        assert exported.others == exporter.others(path)

    def test_any_name_may_be_given_where_nothing_hangs_on_it(self, tmp_path: Path) -> None:
        exporter, path = self.make(), tmp_path / "17.knee"
        if not exporter.companions:
            assert exporter.export(self.source(), path).path == path
            assert path.is_file()
            return
        for name in ("17.knee", "17", f"17{exporter.companions[0]}"):
            with pytest.raises(ExportError, match=f"must end in {exporter.suffix}"):
                exporter.export(self.source(), tmp_path / name)
        assert os.listdir(tmp_path) == []

    def test_it_does_not_need_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exporter, source = self.make(), self.source()
        (tmp_path / "elsewhere").mkdir()
        path = tmp_path / f"network{exporter.suffix}"
        exporter.export(source, path)
        monkeypatch.chdir(tmp_path / "elsewhere")
        exporter.check(source, path)

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        exporter = self.make()
        path = tmp_path / f"taken{exporter.suffix}"
        for taken in (path, *exporter.others(path)):
            taken.write_text("mine")
            with pytest.raises(ExportError, match="exists already"):
                exporter.export(self.source(), path)
            assert taken.read_text() == "mine"
            assert os.listdir(tmp_path) == [taken.name]
            taken.unlink()

    def test_a_missing_directory_is_an_error(self, tmp_path: Path) -> None:
        exporter = self.make()
        with pytest.raises(ExportError, match="does not exist"):
            exporter.export(self.source(), tmp_path / "no" / f"file{exporter.suffix}")

    def test_a_full_disk_leaves_nothing(self, tmp_path: Path) -> None:
        exporter = self.make()

        def broken(_: object, path: Path) -> None:
            path.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with (
            patch.object(exporter, "write", broken),
            pytest.raises(ExportError, match="No space left on device; nothing was kept"),
        ):
            exporter.export(self.source(), tmp_path / f"network{exporter.suffix}")
        assert os.listdir(tmp_path) == []

    def test_what_cannot_be_read_back_is_not_kept(self, tmp_path: Path) -> None:
        exporter = self.make()

        def broken(*_: object) -> float:
            raise RuntimeError("unreadable")

        with (
            patch.object(exporter, "check", broken),
            pytest.raises(RuntimeError, match="unreadable"),
        ):
            exporter.export(self.source(), tmp_path / f"network{exporter.suffix}")
        assert os.listdir(tmp_path) == []


class NetworkExporterContract(ExporterContract):
    """What exporters promise that write networks."""

    def make(self) -> NetworkExporter:
        """Return the exporter under test."""
        raise NotImplementedError

    def source(self) -> Candidate:
        """Return a network with inputs and provenance."""
        raise NotImplementedError

    def test_the_file_gives_the_networks_outputs(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.source()
        path = tmp_path / f"network{exporter.suffix}"
        exported = exporter.export(candidate, path)
        assert 0 <= exported.max_error <= exporter.tolerance
        outputs = exporter.opened(path)(candidate.example)
        assert exporter.difference(outputs, candidate) <= exporter.tolerance
        with torch.inference_mode():
            expected = candidate.network(candidate.example)
        # Exact up to rounding in float32, unless the exporter has a measure of its own.
        if not exporter.unit:
            torch.testing.assert_close(outputs, expected, atol=exporter.tolerance, rtol=0)
        assert outputs.shape == expected.shape

    def test_the_file_takes_other_batch_sizes(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.source()
        path = tmp_path / f"network{exporter.suffix}"
        exporter.export(candidate, path)
        run = exporter.opened(path)
        several = run(candidate.example)
        for count in (1, len(candidate.example) - 1):
            outputs = run(candidate.example[:count])
            assert outputs.shape == several[:count].shape
            torch.testing.assert_close(outputs, several[:count], atol=1e-4, rtol=1e-4)

    def test_the_file_says_where_it_comes_from(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.source()
        path = tmp_path / f"network{exporter.suffix}"
        exporter.export(candidate, path)
        found = exporter.provenance_of(path)
        assert found.pop("format") == format_of(exporter)
        assert found.pop("seal").startswith("autoprune-sha256:")
        assert found == candidate.provenance

    def test_files_that_have_changed_are_refused(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.source()
        path = tmp_path / f"network{exporter.suffix}"
        exporter.export(candidate, path)
        for each in (path, *exporter.others(path)):
            whole = each.read_bytes()
            for place in range(0, len(whole), max(1, len(whole) // 23)):
                changed = bytes([whole[place] ^ 0x10])
                each.write_bytes(whole[:place] + changed + whole[place + 1 :])
                with pytest.raises(ExportError):
                    exporter.provenance_of(path)
            for cut in (0, 1, len(whole) // 2, len(whole) - 1):
                each.write_bytes(whole[:cut])
                with pytest.raises(ExportError):
                    exporter.provenance_of(path)
            each.unlink()
            with pytest.raises(ExportError):
                exporter.provenance_of(path)
            each.write_bytes(whole)
        assert exporter.provenance_of(path)

    def test_what_is_no_such_file_is_refused(self, tmp_path: Path) -> None:
        exporter = self.make()
        path = tmp_path / f"text{exporter.suffix}"
        for each in (path, *exporter.others(path)):
            each.write_text("hello")
        with pytest.raises(ExportError, match="text"):
            exporter.provenance_of(path)
        with pytest.raises(ExportError, match="text"):
            exporter.opened(path)

    def test_a_file_that_does_not_agree_is_not_kept(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.source()
        other = copy.deepcopy(candidate.network)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.5)
        write = exporter.write
        wrong = Candidate(other, candidate.example, candidate.provenance, cut=candidate.cut)
        with (
            patch.object(exporter, "write", lambda _, path: write(wrong, path)),
            pytest.raises(ExportError, match="differ"),
        ):
            exporter.export(candidate, tmp_path / f"network{exporter.suffix}")
        assert os.listdir(tmp_path) == []

    def test_the_candidate_is_left_as_it_was(self, tmp_path: Path) -> None:
        exporter, candidate = self.make(), self.source()
        network, provenance = candidate.network, copy.deepcopy(candidate.provenance)
        state = {name: each.clone() for name, each in network.state_dict().items()}
        modes = [module.training for module in network.modules()]
        exporter.export(candidate, tmp_path / f"network{exporter.suffix}")
        assert [module.training for module in network.modules()] == modes
        assert candidate.provenance == provenance
        assert list(network.state_dict()) == list(state)
        for name, each in network.state_dict().items():
            assert torch.equal(each, state[name])
