"""ONNX in whole numbers, checked under onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.contracts.exporter import Candidate
from autoprune.exporters._onnx_file import OnnxFile
from autoprune.exporters._whole_numbers import TOLERANCE, UNIT, difference, written

if TYPE_CHECKING:
    from torch import Tensor


class OnnxInt8(OnnxFile):
    """ONNX file of a quantised network in 8-bit whole numbers (QDQ), verified under onnxruntime."""

    tolerance: ClassVar[float] = TOLERANCE
    unit: ClassVar[str] = UNIT

    def model_of(self, candidate: Candidate) -> Any:
        """Return the model; the candidate's samples tell ranges between layers.

        Raises `ExportError` for a candidate that is not quantised.
        """
        return written(candidate, "onnx_int8")

    def difference(self, outputs: Tensor, candidate: Candidate) -> float:
        """Return the distance from the network's outputs in units of what rounding changes."""
        return difference(outputs, candidate)
