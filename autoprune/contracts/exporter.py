"""The contract of an exporter: write, read back with the target's own runtime, compare.

    exporter = OnnxExporter()
    exporter.export(candidate, Path("knee.onnx"))    # Exported(path, size_bytes, max_error)

An exporter reports success only after the file, read back, gave the network's outputs on
real inputs within its tolerance. It refuses to overwrite, and it writes to a temporary
name first, so that a failed export leaves nothing behind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Candidate:
    """A network ready to leave: in eval mode, fp32, on the CPU.

    `example` is a batch of real, normalised inputs; `provenance` is JSON: job, trial,
    policy and its hash, objectives with values, versions. `samples` are training inputs that
    tell ranges of values, the example where there are none.
    """

    network: nn.Module
    example: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """A written and verified file; `max_error` is its exporter's `difference` of outputs, in
    `unit` where that is not the outputs' own.
    """

    path: Path
    size_bytes: int
    max_error: float
    unit: str = ""


class Exporter(ABC):
    """Writes one format. `suffix` is the file ending; `tolerance` bounds `max_error`, in `unit`."""

    suffix: ClassVar[str]
    tolerance: ClassVar[float]
    unit: ClassVar[str] = ""

    @abstractmethod
    def write(self, candidate: Candidate, path: Path) -> None:
        """Write the network to `path`, which does not exist yet."""

    @abstractmethod
    def read_outputs(self, path: Path, candidate: Candidate) -> Tensor:
        """Run the file at `path` on `candidate.example` with the target's own runtime."""

    def difference(self, outputs: Tensor, candidate: Candidate) -> float:
        """Return how far outputs for the example are from the network's: the most, in `unit`."""
        import torch

        with torch.inference_mode():
            expected = candidate.network(candidate.example)
        return float((outputs - expected).abs().max())

    def export(self, candidate: Candidate, path: Path) -> Exported:
        """Write, read back, compare, and only then give the file its name.

        Raises `ExportError` if `path` exists, if its directory does not, or if the
        outputs differ by more than `tolerance`.
        """
        if path.exists():
            raise ExportError(f"{path} exists already; name another file or remove it")
        if not path.parent.is_dir():
            raise ExportError(f"directory {path.parent} does not exist; create it first")
        part = path.with_name(f".{path.name}.part{self.suffix}")
        try:
            self.write(candidate, part)
            max_error = self.difference(self.read_outputs(part, candidate), candidate)
            if not max_error <= self.tolerance:
                unit = f" {self.unit}" if self.unit else ""
                raise ExportError(
                    f"{path.name}: outputs of the written file differ by {max_error:.2e}{unit}, "
                    f"allowed: {self.tolerance:.0e}; nothing was kept"
                )
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        return Exported(path, path.stat().st_size, max_error, self.unit)
