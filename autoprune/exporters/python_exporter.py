"""Python source, checked by running it."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, ClassVar

from autoprune.contracts.exporter import Candidate, Network, NetworkExporter
from autoprune.errors import ExportError
from autoprune.exporters._inference import inferring
from autoprune.seal import check_seal


class Python(NetworkExporter):
    """Python source that needs only torch, readable, weights in safetensors beside it."""

    suffix: ClassVar[str] = ".py"
    companions: ClassVar[tuple[str, ...]] = (".safetensors",)
    tolerance: ClassVar[float] = 1e-5

    def write(self, source: Candidate, path: Path) -> None:
        """Write the source of a `Network` and its `load`, and the weights.

        Raises `ExportError`, which says what to use instead, for a quantised network, for one
        that `torch.export` cannot trace, and for operations that no source can say.
        """
        from safetensors.torch import save_file

        from autoprune.exporters._program import traced_of
        from autoprune.exporters._source_code.module import source_of

        traced = traced_of(source)
        made = source_of(traced, source.provenance, self.stamped(source.provenance))
        path.write_text(made.text, encoding="utf-8", newline="\n")
        # Copies: the format refuses tensors that share memory, as tied weights do.
        state = {name: each.detach().clone().contiguous() for name, each in made.tensors.items()}
        (weights,) = self.others(path)
        save_file(state, weights, metadata={"format": "pt"})

    def opened(self, path: Path) -> Network:
        """Run the file, if its seal is whole, and return its network with its weights.

        Nothing of a file is run that was changed, and none of its names stays behind.
        """
        check_seal(path, self.others(path))
        module = types.ModuleType(f"autoprune exported {path.name}")
        module.__file__ = str(path.absolute())
        try:
            exec(compile(_text(path), str(path), "exec"), module.__dict__)
            # Products of weights that can learn are summed in another order.
            network: Any = module.__dict__["load"]().requires_grad_(False)
        except Exception as error:  # whatever a file raises that somebody else has sealed
            raise ExportError(f"cannot run {path}: {error}") from error

        return inferring(network)

    def stamp_of(self, path: Path) -> str:
        """Return the stamp in the source, of which nothing is run."""
        from autoprune.exporters._source_code.module import stamp_in

        return stamp_in(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read {path} as Python: {error}") from error
