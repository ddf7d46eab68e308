"""Measured latency."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autoprune.contracts.objective import Objective, Predictor, Stage, Subject
from autoprune.graph.cost import CostTable
from autoprune.objectives._latency_predictor import LatencyPredictor
from autoprune.trial import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autoprune.runtimes.runtime import Runner, Runtime
    from autoprune.runtimes.timing import Comparison

Backend = Literal[
    "torch", "torch_compile", "torch_sparse", "onnx", "openvino", "torchao", "cuda_graph"
]


class Latency(Objective):
    """Milliseconds of one pass where the network is deployed, measured beside the dense one.

    Both run in turn, warm, until the ratio of their times is known to `precision`; the value is
    that ratio times the milliseconds of the dense network in its own trial, so that values
    compare which were measured hours apart. `parts` holds the ratio, and the milliseconds of
    both as they were just now.

    Quantised layers run in whole numbers on onnx, openvino and (linear ones) torchao; `note`
    says what of them runs otherwise. Zeros are skipped on torch_sparse alone; `note` says where.

    Args:
        backend: torch (eager), torch_compile, torch_sparse, onnx (ONNX Runtime), openvino,
            torchao, cuda_graph.
        device: cpu or cuda; by default where the job runs.
        batch: samples per pass, copies of one.
        threads: of the processor.
        precision: full width of the 95 % interval as a share of the value.
        seconds: of timing at most; where they do not suffice, a note says so.
    """

    name: ClassVar[str] = "latency_ms"
    unit: ClassVar[str] = "ms"
    stage: ClassVar[Stage] = Stage.NETWORK
    compares: ClassVar[bool] = True

    def __init__(
        self,
        *,
        backend: Backend = "torch",
        device: Literal["cpu", "cuda"] | None = None,
        batch: int = 1,
        threads: int = 1,
        precision: float = 0.03,
        seconds: float = 2.0,
    ) -> None:
        if min(batch, threads) < 1:
            raise ValueError("batch and threads must be at least 1")
        if not 0.0 < precision < 1.0:
            raise ValueError("precision must lie between 0 and 1")
        if not seconds > 0.0:
            raise ValueError("seconds must be greater than 0")
        self.backend = backend
        self.device = device
        self.batch = batch
        self.threads = threads
        self.precision = precision
        self.seconds = seconds
        self._reference: tuple[nn.Module, tuple[int, ...], Runner] | None = None

    @property
    def runtime(self) -> str:
        """Name of the runtime that passes are timed on."""
        return self.backend

    def check(self, device: str) -> None:
        """Raise `InputError` where the backend, or a package or compiler of it, is missing."""
        self._runtime.check(self.device or device)

    def measure(self, subject: Subject) -> Measurement:
        """Time the network on `batch` copies of the first example, beside the dense one.

        Without a dense network it is timed alone; while nothing is known of the dense one, as
        in its own trial, the value is what was timed just now.
        """
        from autoprune.runtimes import timing

        assert subject.network is not None
        precision, seconds = self.precision, self.seconds
        dense, runner = subject.dense, self._runner(subject)
        zeros = runner.notes or self._runtime.of_zeros(subject.network)
        remarks = [*self._runtime.of_bits(subject.network), *zeros]
        if dense is None:
            with runner:
                found = timing.alone(runner, precision=precision, seconds=seconds)
            return _noted(found, remarks)
        with self._dense_runner(dense) as reference, runner:
            beside = timing.compare(runner, reference, precision=precision, seconds=seconds)
        return _noted(_beside(beside, subject, dense), remarks)

    def survey(self, subject: Subject) -> Mapping[str, Any]:
        """Time the dense network and its layers; half a minute at most, in most networks."""
        from autoprune.objectives._latency_survey import survey

        return survey(*self._placed(subject), self.backend, self.threads)

    def preferred_multiple(self, subject: Subject) -> int:
        """Return the multiple of channels that the backend likes best on this device.

        For torch_compile it is that of eager PyTorch: compiling every width takes minutes.
        """
        from autoprune.runtimes.catalog import create
        from autoprune.runtimes.multiple import preferred_multiple

        backend = "torch" if self.backend == "torch_compile" else self.backend
        runtime = create(backend, threads=self.threads)
        return preferred_multiple(runtime, *self._placed(subject)).multiple

    def predictor(self, survey: Mapping[str, Any], costs: CostTable) -> Predictor:
        """Return what predicts from a survey, and learns from trials."""
        return LatencyPredictor(survey, costs)

    @cached_property
    def _runtime(self) -> Runtime:
        from autoprune.runtimes.catalog import create

        return create(self.backend, threads=self.threads)

    def _dense_runner(self, dense: Subject) -> Runner:
        """Return a runner of the dense network; it is the same one for all trials."""
        assert dense.network is not None
        assert dense.example is not None
        key = dense.network, tuple(dense.example.shape[1:])
        if self._reference is None or self._reference[:2] != key:
            self._reference = *key, self._runner(dense)
        return self._reference[2]

    def _runner(self, subject: Subject) -> Runner:
        return self._runtime.build(*self._placed(subject))

    def _placed(self, subject: Subject) -> tuple[nn.Module, Tensor]:
        """Return the network and its batch on the device to measure on."""
        import torch

        assert subject.network is not None
        assert subject.example is not None
        network, inputs = subject.network, torch.cat([subject.example[:1]] * self.batch)
        if self.device not in (None, inputs.device.type):
            network, inputs = copy.deepcopy(network).to(self.device), inputs.to(self.device)
        return network, inputs


def _noted(found: Measurement, remarks: Sequence[str]) -> Measurement:
    """Add remarks to the note of a measurement."""
    return replace(found, note="; ".join(filter(None, [found.note, *remarks])))


def _beside(found: Comparison, subject: Subject, dense: Subject) -> Measurement:
    """Return a comparison in milliseconds of the dense network's own trial."""
    ratio, known = found.ratio, dense.known.get(Latency.name)
    assert ratio.low is not None
    assert ratio.high is not None
    notes = [found.note] if found.note else []
    if ratio.low > 1.0 and subject.costs.macs < dense.costs.macs:
        notes.append("slower than the dense network although it has fewer macs")
    scaled = found.candidate_ms
    if known is not None:
        ms = known.value
        scaled = Measurement(ms * ratio.value, ms * ratio.low, ms * ratio.high)
    parts = {"ratio": ratio, "own_ms": found.candidate_ms, "dense_ms": found.reference_ms}
    return replace(scaled, note="; ".join(notes), parts=parts)
