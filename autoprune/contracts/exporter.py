"""The contract of an exporter: write, read back with the target's own means, compare.

    exporter = Onnx()
    exporter.export(candidate, Path("knee.onnx"))    # Exported(path, size_bytes, max_error)

A `NetworkExporter` writes a network that runs elsewhere, a `PolicyExporter` how another tool is
to prune, and a `RunExporter` what a run has found. Each reports success only after what it has
written was read back and is right. It refuses to overwrite, and writes in a hidden directory
first, so that an export that fails leaves nothing behind.

What is written says where it comes from: `stamped` is put into the file, and the seal in it
becomes the file's digest (`autoprune.seal`).
"""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from autoprune.contracts.exported import Exported
from autoprune.errors import ExportError
from autoprune.seal import check_seal, open_seal, seal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from autoprune.graph.group import GroupTable
    from autoprune.policy import Policy
    from autoprune.run_view import RunView
    from autoprune.trial import Trial

Network: TypeAlias = "Callable[[Tensor], Tensor]"
"""What an exported file computes: logits, float32 on the CPU, of any number of inputs (n, ...)."""
Source = TypeVar("Source", contravariant=True)


@dataclass(frozen=True)
class Cut:
    """How a network came from the dense one.

    `kept` says which positions stayed, a boolean array (size,), by parameter and dimension,
    wherever any left; nothing of what left with a dropped block.
    """

    dense: nn.Module
    groups: GroupTable
    policy: Policy
    kept: Mapping[tuple[str, int], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """A network ready to leave: in eval mode, fp32, on the CPU.

    `example` is a batch of real, normalised inputs; `provenance` is JSON: job, trial,
    policy and its hash, objectives with values, versions. `samples` are training inputs that
    tell ranges of values, the example where there are none. `cut` is there where the dense
    network is.
    """

    network: nn.Module
    example: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: Tensor | None = None
    cut: Cut | None = None


@dataclass(frozen=True)
class Chosen:
    """A run, and the trial of it that is meant."""

    run: RunView
    trial: Trial


class Exporter(ABC, Generic[Source]):
    """Writes one format. `suffix` is the file ending, `companions` are those of files beside it.

    A format that has a place for the provenance `is_sealed`; one that `logs_elsewhere` changes
    more than its files, and no server does that for whoever may read.
    """

    suffix: ClassVar[str]
    companions: ClassVar[tuple[str, ...]] = ()
    is_sealed: ClassVar[bool] = True
    logs_elsewhere: ClassVar[bool] = False
    unit: ClassVar[str] = ""

    @abstractmethod
    def write(self, source: Source, path: Path) -> None:
        """Write `path`, which ends in `suffix` and does not exist yet, and its companions."""

    @abstractmethod
    def check(self, source: Source, path: Path) -> float:
        """Read back what was written; raise `ExportError` where it is not right.

        Return how far outputs differ, 0 where there are none.
        """

    def others(self, path: Path) -> tuple[Path, ...]:
        """Return the companions of the file at `path`."""
        return tuple(path.with_suffix(each) for each in self.companions)

    def unit_of(self, source: Source) -> str:
        """Return the unit of `max_error`, "" for that of the outputs."""
        return self.unit

    def stamped(self, provenance: Mapping[str, Any]) -> str:
        """Return the JSON that says where a file comes from, with room for its digest."""
        said = {**provenance, "format": format_of(self), "seal": open_seal()}
        return json.dumps(said, sort_keys=True)

    def check_free(self, path: Path) -> None:
        """Raise `ExportError` if a file of an export to `path` is there, or no directory for it."""
        if self.companions and path.suffix != self.suffix:
            raise ExportError(
                f"{path} must end in {self.suffix}: by its name what belongs to it is found "
                f"({', '.join(self.companions)})"
            )
        for each in (path, *self.others(path)):
            if each.exists():
                raise ExportError(f"{each} exists already; name another file or remove it")
        if not path.parent.is_dir():
            raise ExportError(f"directory {path.parent} does not exist; create it first")

    def export(self, source: Source, path: Path) -> Exported:
        """Write, read back, compare, and only then give the files their names.

        Raises `ExportError` if one of them exists, if their directory does not, if there is no
        room, or if what was read back is not what was to be written.
        """
        self.check_free(path)
        places = (path, *self.others(path))
        try:
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as room:
                part = Path(room) / f"{path.stem}{self.suffix}"
                max_error = self._written(source, part)
                size = sum(each.stat().st_size for each in (part, *self.others(part)))
                _publish((part, *self.others(part)), places)
        except OSError as error:
            raise ExportError(
                f"cannot write {path}: {error.strerror or error}; nothing was kept"
            ) from error
        return Exported(path, size, max_error, self.unit_of(source), places[1:])

    def _written(self, source: Source, path: Path) -> float:
        self.write(source, path)
        if self.is_sealed:
            seal(path, self.others(path))
        return self.check(source, path)


class NetworkExporter(Exporter[Candidate]):
    """Writes a network that the target runs; `tolerance` bounds `max_error`, in `unit`."""

    tolerance: ClassVar[float]

    @abstractmethod
    def opened(self, path: Path) -> Network:
        """Return what the file at `path` computes, with the target's own runtime on the CPU.

        Raises `ExportError` for a file that is missing, damaged or of another origin.
        """

    @abstractmethod
    def stamp_of(self, path: Path) -> str:
        """Return what was `stamped` into the file at `path`, "" where nothing was.

        Raises `ExportError` for a file that is missing, or not of this format at all.
        """

    def provenance_of(self, path: Path) -> dict[str, Any]:
        """Return the provenance of a file that is whole; raises `ExportError` for others."""
        stamp = self.stamp_of(path)
        check_seal(path, self.others(path))
        try:
            found = json.loads(stamp)
        except ValueError as error:
            raise ExportError(f"{path} says nothing readable about itself: {error}") from error
        if not isinstance(found, dict):
            raise ExportError(f"{path} says nothing about itself that autoprune has written")
        return found

    def difference(self, outputs: Tensor, candidate: Candidate) -> float:
        """Return how far outputs for the example are from the network's: the most, in `unit`."""
        import torch

        with torch.inference_mode():
            expected = candidate.network(candidate.example)
        return float((outputs - expected).abs().max())

    def tolerance_of(self, source: Candidate) -> float:
        """Return the largest `max_error` with which a file is kept."""
        return self.tolerance

    def check(self, source: Candidate, path: Path) -> float:
        """Run the file on the example; raise `ExportError` if outputs differ too much."""
        self.provenance_of(path)
        max_error = self.difference(self.opened(path)(source.example), source)
        most, unit = self.tolerance_of(source), self.unit_of(source)
        if not max_error <= most:
            raise ExportError(
                f"{path.name}: outputs of the written file differ by {max_error:.2e}"
                f"{' ' * bool(unit)}{unit}, allowed: {most:.0e}; nothing was kept"
            )
        return max_error


class PolicyExporter(Exporter[Candidate]):
    """Writes how another tool is to prune; what it cannot express is an `ExportError`."""


class RunExporter(Exporter[Chosen]):
    """Writes what a run has found; needs no network, and no torch."""


def format_of(exporter: Exporter[Any]) -> str:
    """Return the name of an exporter's format: that of its file."""
    return type(exporter).__module__.rpartition(".")[2].removesuffix("_exporter")


def versions() -> dict[str, str]:
    """Return the versions of what writes files; nothing is imported for it."""
    return {name: version(name) for name in ("autoprune", "torch")}


def cut_of(candidate: Candidate) -> Cut:
    """Return how a candidate was cut; raises `ExportError` where the dense network is not there."""
    if candidate.cut is None:
        raise ExportError(
            "this format needs the dense network, and there is none beside a network alone; "
            "export it from its run"
        )
    return candidate.cut


def _publish(parts: Sequence[Path], places: Sequence[Path]) -> None:
    """Give files their names, the first one last: it is there only with all others."""
    probe = parts[0].with_name("mode")
    probe.touch()
    for each in parts:
        each.chmod(probe.stat().st_mode)  # some writers let nobody else read
        with each.open("rb") as file:
            os.fsync(file.fileno())
    done: list[Path] = []
    try:
        for part, place in reversed(list(zip(parts, places, strict=True))):
            part.rename(place)
            done.append(place)
    except OSError:
        for place in done:
            place.unlink(missing_ok=True)
        raise
