"""Programs of `torch.export`, checked by running them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from autoprune.contracts.exporter import Candidate, Network, NetworkExporter
from autoprune.exporters import _program_file
from autoprune.exporters._inference import inferring
from autoprune.seal import check_seal


class TorchExport(NetworkExporter):
    """PyTorch program (.pt2) that `torch.export.load` reads, with dynamic batch; no pickle."""

    suffix: ClassVar[str] = ".pt2"
    tolerance: ClassVar[float] = 1e-5

    def write(self, source: Candidate, path: Path) -> None:
        """Write one self-contained file with dynamic batch.

        Raises `ExportError`, which says what to use instead, for a quantised network and for
        one that `torch.export` cannot trace.
        """
        from autoprune.exporters._program import traced_of

        _program_file.save(traced_of(source).program, self.stamped(source.provenance), path)

    def opened(self, path: Path) -> Network:
        """Return what the file computes, if its seal is whole."""
        check_seal(path)
        # Products of weights that can learn are summed in another order.
        network = _program_file.load(path).module().requires_grad_(False)
        return inferring(network)

    def stamp_of(self, path: Path) -> str:
        """Return the stamp that is in the file."""
        return _program_file.stamp_of(path)
