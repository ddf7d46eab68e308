"""ONNX, checked under onnxruntime."""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.contracts.exporter import Candidate
from autoprune.errors import ExportError
from autoprune.exporters._onnx_file import OnnxFile, converted
from autoprune.exporters._whole_numbers import is_quantised


class Onnx(OnnxFile):
    """ONNX file with dynamic batch, verified under onnxruntime; provenance in its metadata."""

    tolerance: ClassVar[float] = 1e-4

    def model_of(self, candidate: Candidate) -> Any:
        """Return the model in single precision; raises `ExportError` for a quantised network."""
        if is_quantised(candidate):
            raise ExportError("this network is quantised; use --to onnx_int8")
        return converted(candidate.network, candidate.example)
