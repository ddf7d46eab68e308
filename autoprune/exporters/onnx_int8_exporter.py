"""ONNX in whole numbers, checked under onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.exporter import Candidate, Exporter
from autoprune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

# As a share of the outputs, below which rounding changes nothing that could be compared.
_FLOOR = 1e-4


class OnnxInt8(Exporter):
    """ONNX file of a quantised network in 8-bit whole numbers (QDQ), verified under onnxruntime.

    Where two roundings follow one another, a value halfway may fall to either side, and what is
    handed on between layers is rounded as well. So outputs are compared in root mean square,
    as a multiple of what rounding the inputs of layers itself changes about them.
    """

    suffix: ClassVar[str] = ".onnx"
    tolerance: ClassVar[float] = 4.0
    unit: ClassVar[str] = "times what the rounding of inputs changes"

    def write(self, candidate: Candidate, path: Path) -> None:
        """Write one self-contained file with dynamic batch, provenance in its metadata.

        The candidate's samples tell ranges between layers. Raises `ExportError` without the
        `onnx` extra, and for a candidate that is not quantised.
        """
        from autoprune.quantization.form import quantised_layers

        if not quantised_layers(candidate.network):
            raise ExportError(
                "onnx_int8 writes quantised networks, and no layer of this one has fewer than "
                "32 bits; use --to onnx, or search with bits (space: mixed, or a rung with "
                "quantize: int8)"
            )
        try:
            import onnx
            import onnxruntime  # noqa: F401  tells the ranges, asked for here by name
            import onnxscript  # noqa: F401  needed by the conversion
        except ImportError as error:
            raise ExportError(
                f"{error}; install the extra: pip install 'autoprune[onnx]'"
            ) from error
        from autoprune.runtimes.conversion import exported
        from autoprune.runtimes.qdq import in_whole_numbers
        from autoprune.runtimes.single_precision import in_single_precision

        network, example = candidate.network, candidate.example
        samples = example if candidate.samples is None else candidate.samples
        program = exported(in_single_precision(network), example, any_batch=True)
        program.optimize()
        single = program.model_proto.SerializeToString()
        model = onnx.load_from_string(in_whole_numbers(single, network, samples))
        entry = model.metadata_props.add()
        entry.key, entry.value = "autoprune", json.dumps(candidate.provenance, sort_keys=True)
        onnx.save_model(model, str(path))

    def read_outputs(self, path: Path, candidate: Candidate) -> Tensor:
        """Run the file with onnxruntime on the CPU, one thread."""
        from autoprune.runtimes.onnx_runtime import OnnxRunner

        return OnnxRunner(path.read_bytes(), candidate.example, threads=1).outputs()

    def difference(self, outputs: Tensor, candidate: Candidate) -> float:
        """Return the distance from the network's outputs in units of what rounding changes."""
        import torch

        from autoprune.runtimes.single_precision import in_single_precision

        with torch.inference_mode():
            expected = candidate.network(candidate.example)
            single = in_single_precision(candidate.network)(candidate.example)
        least = _FLOOR * _size(expected)
        return _size(outputs - expected) / max(_size(single - expected), least)


def _size(outputs: Tensor) -> float:
    """Return the root mean square."""
    return float(outputs.double().square().mean().sqrt())
