"""PyTorch: weights as safetensors, with everything needed to rebuild the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.exporter import Candidate, Exporter

if TYPE_CHECKING:
    from torch import Tensor


class Torch(Exporter):
    """Safetensors file that `autoprune.load` turns back into the pruned module; no pickle."""

    suffix: ClassVar[str] = ".safetensors"
    tolerance: ClassVar[float] = 1e-6

    def write(self, candidate: Candidate, path: Path) -> None:
        """Write weights, and in the header the model, policy, groups and provenance."""
        from safetensors.torch import save_file

        # Copies: the format refuses tensors that share memory, as tied weights do.
        state = {
            name: each.detach().cpu().clone().contiguous()
            for name, each in candidate.network.state_dict().items()
        }
        header = {"autoprune": json.dumps(candidate.provenance, sort_keys=True)}
        save_file(state, path, metadata=header)

    def read_outputs(self, path: Path, candidate: Candidate) -> Tensor:
        """Rebuild the network from the file alone and run it."""
        import torch

        from autoprune.rebuild import load

        with torch.inference_mode():
            outputs: Tensor = load(path)(candidate.example)
        return outputs
