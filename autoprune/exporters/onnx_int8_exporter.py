"""ONNX in whole numbers, checked under onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.exporter import Candidate, Network, NetworkExporter
from autoprune.exporters import _onnx_file
from autoprune.exporters._whole_numbers import UNIT, difference, written

if TYPE_CHECKING:
    from torch import Tensor


class OnnxInt8(NetworkExporter):
    """ONNX file of a quantised network in 8-bit whole numbers (QDQ), verified under onnxruntime."""

    suffix: ClassVar[str] = ".onnx"
    tolerance: ClassVar[float] = 4.0
    unit: ClassVar[str] = UNIT

    def write(self, source: Candidate, path: Path) -> None:
        """Write one self-contained file with dynamic batch, provenance in its metadata.

        The candidate's samples tell ranges between layers. Raises `ExportError` without the
        `onnx` extra, and for a candidate that is not quantised.
        """
        _onnx_file.save(written(source, "onnx_int8"), self.stamped(source.provenance), path)

    def opened(self, path: Path) -> Network:
        """Return what the file computes under onnxruntime, on one thread."""
        return _onnx_file.opened(path)

    def stamp_of(self, path: Path) -> str:
        """Return the stamp in the file's metadata."""
        return _onnx_file.stamp_of(path)

    def difference(self, outputs: Tensor, candidate: Candidate) -> float:
        """Return the distance from the network's outputs in units of what rounding changes."""
        return difference(outputs, candidate)
