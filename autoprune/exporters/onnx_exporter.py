"""ONNX, checked under onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from autoprune.contracts.exporter import Candidate, Network, NetworkExporter
from autoprune.errors import ExportError
from autoprune.exporters import _onnx_file
from autoprune.exporters._whole_numbers import is_quantised


class Onnx(NetworkExporter):
    """ONNX file with dynamic batch, verified under onnxruntime; provenance in its metadata."""

    suffix: ClassVar[str] = ".onnx"
    tolerance: ClassVar[float] = 1e-4

    def write(self, source: Candidate, path: Path) -> None:
        """Write one self-contained file.

        Raises `ExportError` without the `onnx` extra, and for a quantised network.
        """
        if is_quantised(source):
            raise ExportError("this network is quantised; use --to onnx_int8")
        _onnx_file.require()
        from autoprune.runtimes.conversion import exported

        program = exported(source.network, source.example, any_batch=True)
        program.optimize()
        _onnx_file.save(program.model_proto, self.stamped(source.provenance), path)

    def opened(self, path: Path) -> Network:
        """Return what the file computes under onnxruntime, on one thread."""
        return _onnx_file.opened(path)

    def stamp_of(self, path: Path) -> str:
        """Return the stamp in the file's metadata."""
        return _onnx_file.stamp_of(path)
