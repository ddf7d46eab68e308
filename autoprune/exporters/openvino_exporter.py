"""OpenVINO, checked under its own runtime."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.contracts.exporter import Candidate, Network, NetworkExporter
from autoprune.errors import ExportError
from autoprune.exporters._onnx_file import converted
from autoprune.exporters._whole_numbers import (
    TOLERANCE,
    UNIT,
    difference,
    is_quantised,
    written,
)

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "autoprune"
# Its own default may be bfloat16, which is another network than the one that was measured.
_OPTIONS = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}


class OpenVino(NetworkExporter):
    """OpenVINO's XML and the weights beside it (.bin), float32 or whole numbers of 8 bits."""

    suffix: ClassVar[str] = ".xml"
    companions: ClassVar[tuple[str, ...]] = (".bin",)
    tolerance: ClassVar[float] = 1e-4

    def write(self, source: Candidate, path: Path) -> None:
        """Write both files, with dynamic batch; provenance in the model's runtime information.

        Raises `ExportError` without the extra `openvino`.
        """
        openvino = _openvino()
        with tempfile.TemporaryDirectory() as directory:
            onnx_file = Path(directory) / "network.onnx"
            onnx_file.write_bytes(_as_onnx(source))
            model = openvino.Core().read_model(str(onnx_file))
        model.set_rt_info(self.stamped(source.provenance), [_KEY])
        openvino.save_model(model, str(path), compress_to_fp16=False)

    def opened(self, path: Path) -> Network:
        """Return what the files compute under OpenVINO, float32 where they say so, one thread."""
        import torch

        openvino = _openvino()
        self.stamp_of(path)  # in words of ours what is no such file
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", _OPTIONS)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot read {path}: {error}") from error

        def run(inputs: Tensor) -> Tensor:
            found = compiled([inputs.contiguous().numpy()])
            return torch.from_numpy(found[compiled.output(0)].copy())

        return run

    def stamp_of(self, path: Path) -> str:
        """Return the stamp in the model's runtime information."""
        try:
            place = ET.parse(path).getroot().find(f"rt_info/{_KEY}")
        except (OSError, ET.ParseError) as error:
            raise ExportError(f"cannot read {path} as a model of OpenVINO: {error}") from error
        return "" if place is None else place.get("value", "")

    def unit_of(self, source: Candidate) -> str:
        """Return the unit of `max_error`: another one in whole numbers."""
        return UNIT if is_quantised(source) else ""

    def tolerance_of(self, source: Candidate) -> float:
        """Return the largest `max_error` with which a file is kept."""
        return TOLERANCE if is_quantised(source) else self.tolerance

    def difference(self, outputs: Tensor, candidate: Candidate) -> float:
        """Return how far outputs are from the network's, in the unit of `unit_of`."""
        if is_quantised(candidate):
            return difference(outputs, candidate)
        return super().difference(outputs, candidate)

    def check(self, source: Candidate, path: Path) -> float:
        """Run the file on the example; where outputs differ, say so if 8-bit products saturate."""
        from autoprune.runtimes.processor import saturates
        from autoprune.runtimes.remark import in_eight_bits

        try:
            return super().check(source, path)
        except ExportError as error:
            if not (saturates() and in_eight_bits(source.network)):
                raise
            raise ExportError(
                f"{error}. Products of 8 bits saturate in OpenVINO on this processor (x86 without "
                "VNNI): export on another one, search with at most 7 bits, or use --to onnx_int8"
            ) from error


def _as_onnx(candidate: Candidate) -> bytes:
    if is_quantised(candidate):
        model = written(candidate, "openvino")
    else:
        model = converted(candidate.network, candidate.example)
    content: bytes = model.SerializeToString()
    return content


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ExportError(
            f"{error}; install the extra: pip install 'autoprune[openvino]'"
        ) from error
    return openvino
