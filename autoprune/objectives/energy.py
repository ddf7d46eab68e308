"""Energy of a forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.errors import InputError
from autoprune.objectives._energy_counters import Counter, Nvml, Rapl
from autoprune.objectives._energy_meter import Metered, metered
from autoprune.objectives._energy_model import estimated
from autoprune.trial import Measurement

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_WARMUP_S = 0.2
_CHUNK_S = 0.01


class Energy(Objective):
    """Millijoules per sample of a forward pass, beyond what the idle machine takes.

    It is measured by the counter of the device: while nothing runs and then while the network
    runs. Where there is none, `auto` estimates it from operations and bytes moved, and says so.

    Args:
        batch: samples per pass, copies of one.
        seconds: of running, and of idling before; longer where the counter moves seldom.
        source: nvml (GPU), rapl (processor), model (an estimate), auto (what the device has).
    """

    name: ClassVar[str] = "energy_mj"
    unit: ClassVar[str] = "mJ"
    stage: ClassVar[Stage] = Stage.NETWORK

    def __init__(
        self,
        *,
        batch: int = 1,
        seconds: float = 1.0,
        source: Literal["auto", "nvml", "rapl", "model"] = "auto",
    ) -> None:
        if batch < 1:
            raise ValueError("batch must be at least 1")
        if not 0.05 <= seconds <= 60.0:
            raise ValueError("seconds must lie between 0.05 and 60")
        self.batch = batch
        self.seconds = seconds
        self.source = source

    def check(self, device: str) -> None:
        """Raise `InputError` if the source that was asked for cannot be read here."""
        if self.source in ("nvml", "rapl"):
            self._counter(device)

    def measure(self, subject: Subject) -> Measurement:
        """Measure, or estimate, on the example's device; `note` says by what.

        Raises `InputError` if the source that was asked for cannot be read.
        """
        assert subject.example is not None
        if self.source == "model":
            return estimated(subject.costs, self.batch, "")
        try:
            counter = self._counter(subject.example.device.type, subject.example.device)
            found = metered(counter, self._work(subject), self.seconds)
        except InputError as error:
            if self.source != "auto":
                raise
            return estimated(subject.costs, self.batch, f"not measured: {error}")
        return _per_sample(found, self.batch, counter.title)

    def _counter(self, kind: str, device: torch.device | None = None) -> Counter:
        """Return the counter to read on a `cpu` or `cuda` device, this one."""
        own = "nvml" if kind == "cuda" else "rapl"
        if self.source not in ("auto", own):
            raise InputError(
                f"source: {self.source} does not see what runs on {kind}; allowed there: "
                f"auto, {own}, model"
            )
        try:
            return Nvml(device) if own == "nvml" else Rapl()
        except InputError as error:
            if self.source == "auto":
                raise
            raise InputError(f"source: {own}: {error}; else: source: model, an estimate") from error

    def _work(self, subject: Subject) -> Callable[[], int]:
        """Warm the network up; return what runs it for about 10 ms and counts the passes."""
        import torch

        assert subject.network is not None
        assert subject.example is not None
        network, inputs = subject.network, torch.cat([subject.example[:1]] * self.batch)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        passes, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < _WARMUP_S:
            passes += _run(network, inputs, 1)
        count = max(1, round(_CHUNK_S * passes / spent))
        return lambda: _run(network, inputs, count)


def _run(network: nn.Module, inputs: Tensor, count: int) -> int:
    """Run `count` passes and wait for them; return `count`."""
    import torch

    with torch.no_grad():
        for _ in range(count):
            network(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return count


def _per_sample(found: Metered, batch: int, title: str) -> Measurement:
    """Return mJ per sample; where idling hides them, the most that they can be."""
    scale = 1e3 / batch
    net, half = scale * found.net.mean, scale * found.net.half
    idle = found.idle
    parts = {
        "gross_mj": Measurement(scale * found.gross),
        "idle_w": Measurement(idle.mean, idle.mean - idle.half, idle.mean + idle.half),
    }
    if net > half:
        return Measurement(net, net - half, net + half, f"by {title}", parts)
    most = net + half if net > -half else scale * found.gross
    note = f"by {title}: too little to be told from idling; the value is the most it can be"
    return Measurement(most, 0.0, most, note, parts)
