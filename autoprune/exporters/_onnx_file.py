"""ONNX files as exporters share them: written with a stamp, read back, run under onnxruntime."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.contracts.exporter import Candidate, Network, NetworkExporter
from autoprune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

_KEY = "autoprune"


class OnnxFile(NetworkExporter):
    """An exporter of one ONNX file with dynamic batch, its provenance in the metadata."""

    suffix: ClassVar[str] = ".onnx"

    @abstractmethod
    def model_of(self, candidate: Candidate) -> Any:
        """Return the ONNX model; raises `ExportError` for what this exporter does not write."""

    def write(self, source: Candidate, path: Path) -> None:
        """Write the file; raises `ExportError` as `model_of`, and without the `onnx` extra."""
        model = self.model_of(source)
        import onnx

        entry = model.metadata_props.add()
        entry.key, entry.value = _KEY, self.stamped(source.provenance)
        onnx.save_model(model, str(path))

    def opened(self, path: Path) -> Network:
        """Return what the file computes under onnxruntime, on one thread.

        Raises `ExportError` for what is no ONNX file, and for one whose tensors lie elsewhere:
        it could name any file of this machine.
        """
        _require()
        import torch
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

        from autoprune.runtimes.onnx_session import session

        if any(each.external_data for each in _tensors(_read(path).graph)):
            raise ExportError(f"{path} keeps tensors in other files; autoprune writes them into it")
        try:
            loaded = session(path.read_bytes())
        except (OSError, Fail, InvalidGraph, InvalidProtobuf) as error:
            raise ExportError(f"cannot read {path} as ONNX: {error}") from error
        (given,) = loaded.get_inputs()

        def run(inputs: Tensor) -> Tensor:
            feed = {given.name: inputs.contiguous().numpy()}
            return torch.from_numpy(loaded.run(None, feed)[0])

        return run

    def stamp_of(self, path: Path) -> str:
        """Return the stamp in the file's metadata."""
        return next((x.value for x in _read(path).metadata_props if x.key == _KEY), "")


def converted(network: nn.Module, example: Tensor) -> Any:
    """Return a network as an ONNX model for batches of any size.

    Raises `ExportError` without the `onnx` extra, and where PyTorch cannot convert it.
    """
    _require()
    from autoprune.runtimes.conversion import exported

    program = exported(network, example, any_batch=True)
    program.optimize()
    return program.model_proto


def _require() -> None:
    """Raise `ExportError` without what converts networks and runs them."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise _missing(error) from error


def _missing(error: ImportError) -> ExportError:
    return ExportError(f"{error}; install the extra: pip install 'autoprune[onnx]'")


def _read(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise _missing(error) from error
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model(str(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ExportError(f"cannot read {path} as ONNX: {error}") from error


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every tensor of a graph, and of those within its nodes."""
    yield from graph.initializer
    for attribute in (each for node in graph.node for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            if inner.node or inner.initializer:
                yield from _tensors(inner)
