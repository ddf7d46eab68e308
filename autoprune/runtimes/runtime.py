"""The contract of a runtime: a network and a batch become something that runs and is timed.

    runtime = create("onnx", threads=1)
    runtime.check("cpu")                          # InputError: what is missing, what works
    runner = runtime.build(network, example)      # converts, compiles; may take seconds
    with runner:
        runner.run()                              # one pass, to its end
        runner.outputs()                          # one pass, and what it returns

Around `with`, a runner may change what belongs to the process (torch's threads, the network's
mode); afterwards all is as it was. Several runners may be open at once, closed in the opposite
order. The network must live, and stay as it is, as long as its runner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import Tensor, nn


class Runner(ABC):
    """One network on one batch, ready to run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    @abstractmethod
    def run(self) -> None:
        """Run one pass and return when it has ended."""

    @abstractmethod
    def outputs(self) -> Tensor:
        """Run one pass and return its outputs, float32, on the CPU."""


class Runtime(ABC):
    """Builds runners that use `threads` threads on a CPU."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    @abstractmethod
    def check(self, device: str) -> None:
        """Raise `InputError` where nothing can run on `device`, `cpu` or `cuda`.

        The message says what is missing, and what would work instead.
        """

    @abstractmethod
    def build(self, network: nn.Module, example: Tensor) -> Runner:
        """Return a runner of `network` on `example`, which lie on one device.

        The outputs are those of the network in evaluation mode, in its own number format.
        """
