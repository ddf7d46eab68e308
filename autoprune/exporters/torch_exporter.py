"""PyTorch: weights as safetensors, with everything needed to rebuild the network."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from autoprune.contracts.exporter import Candidate, Network, NetworkExporter
from autoprune.exporters._inference import inferring
from autoprune.safetensors_header import read_header


class Torch(NetworkExporter):
    """Safetensors file that `autoprune.load` turns back into the pruned module; no pickle."""

    suffix: ClassVar[str] = ".safetensors"
    tolerance: ClassVar[float] = 1e-6

    def write(self, source: Candidate, path: Path) -> None:
        """Write weights, and in the header the model, policy, groups and provenance."""
        from autoprune.rebuild import save

        save(source.network, self.stamped(source.provenance), path)

    def opened(self, path: Path) -> Network:
        """Rebuild the network from the file alone."""
        from autoprune.rebuild import load

        return inferring(load(path))

    def stamp_of(self, path: Path) -> str:
        """Return the stamp in the file's header."""
        return read_header(path)
