"""ONNX, checked under onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.exporter import Candidate, Exporter
from autoprune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor


class Onnx(Exporter):
    """ONNX file with dynamic batch, verified under onnxruntime; provenance in its metadata."""

    suffix: ClassVar[str] = ".onnx"
    tolerance: ClassVar[float] = 1e-4

    def write(self, candidate: Candidate, path: Path) -> None:
        """Write one self-contained file.

        Raises `ExportError` without the `onnx` extra, and for a quantised network.
        """
        from autoprune.quantization.form import quantised_layers

        if quantised_layers(candidate.network):
            raise ExportError("this network is quantised; use --to onnx_int8")
        try:
            import onnx
            import onnxscript  # noqa: F401  needed by the conversion, asked for here by name
        except ImportError as error:
            raise ExportError(
                f"{error}; install the extra: pip install 'autoprune[onnx]'"
            ) from error
        from autoprune.runtimes.conversion import exported

        program = exported(candidate.network, candidate.example, any_batch=True)
        program.optimize()
        model = program.model_proto
        entry = model.metadata_props.add()
        entry.key, entry.value = "autoprune", json.dumps(candidate.provenance, sort_keys=True)
        onnx.save_model(model, str(path))

    def read_outputs(self, path: Path, candidate: Candidate) -> Tensor:
        """Run the file with onnxruntime on the CPU, one thread."""
        from autoprune.runtimes.onnx_runtime import OnnxRunner

        return OnnxRunner(path.read_bytes(), candidate.example, threads=1).outputs()
