"""The contract of a runtime: a network and a batch become something that runs and is timed.

    runtime = create("onnx", threads=1)
    runtime.check("cpu")                          # InputError: what is missing, what works
    runtime.remarks(network)                      # what of its bits and bytes runs otherwise
    runner = runtime.build(network, example)      # converts, compiles; may take seconds
    with runner:
        runner.run()                              # one pass, to its end
        runner.outputs()                          # one pass, and what it returns
        runner.logits(inputs)                     # as many passes as `inputs` take

Around `with`, a runner may change what belongs to the process (torch's threads, the network's
mode); afterwards all is as it was. Several runners may be open at once, closed in the opposite
order. The network must live, and stay as it is, as long as its runner.

A quantised network (`autoprune.quantization.form`) runs as whole numbers where a runtime can
do that, and otherwise in float32 with the values that its kernels were rounded to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import Tensor, nn


class Runner(ABC):
    """One network on one batch, ready to run.

    `artifact` is the file that is deployed, where the runtime has one. `example` is the batch.
    `notes` say in words what became of single weights that left the network, where only building
    it could tell; they stand for `Runtime.of_zeros` then.
    """

    artifact: bytes | None = None
    notes: tuple[str, ...] = ()
    example: Tensor

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
        """Run one pass on the example and return when it has ended."""

    @abstractmethod
    def outputs(self, inputs: Tensor | None = None) -> Tensor:
        """Run one pass on inputs of the example's shape, by default on the example itself.

        Returns its outputs, float32, on the CPU.
        """

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the outputs for any number of inputs (n, ...), in batches like the example."""
        import torch

        pieces = batches_of(inputs, len(self.example))
        return torch.cat([self.outputs(batch)[:count] for batch, count in pieces])


class Runtime(ABC):
    """Builds runners that use `threads` threads on a CPU.

    `whole_numbers` are the classes of layers that it runs in whole numbers of 8 bits, and
    `skips_zeros` says whether single weights that left may save time.
    """

    whole_numbers: tuple[type[nn.Module], ...] = ()
    skips_zeros: bool = False

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    @abstractmethod
    def check(self, device: str) -> None:
        """Raise `InputError` where nothing can run on `device`, `cpu` or `cuda`.

        The message says what is missing, and what would work instead.
        """

    def remarks(self, network: nn.Module) -> list[str]:
        """Return in words what of a network runs otherwise than was decided.

        For example "conv1: 4-bit kernels run as 8-bit whole numbers"; nothing if all runs as
        it was decided, or nothing was.
        """
        return [*self.of_bits(network), *self.of_zeros(network)]

    @abstractmethod
    def of_bits(self, network: nn.Module) -> list[str]:
        """Return in words what of a network's bits runs otherwise than was decided."""

    def of_zeros(self, network: nn.Module) -> list[str]:
        """Return in words what becomes of single weights that left a network."""
        from autoprune.runtimes.remark import all_multiplied

        return all_multiplied(network)

    @abstractmethod
    def build(self, network: nn.Module, example: Tensor, samples: Tensor | None = None) -> Runner:
        """Return a runner of `network` on `example`, which lie on one device.

        The outputs are those of the network in evaluation mode. What a quantised network
        hands on between layers as whole numbers is rounded as well; `samples` (n, ...), by
        default the example, tell its ranges. The milliseconds do not depend on them.
        """


def batches_of(inputs: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield inputs (n, ...) in batches of exactly `size`, and how many of each count.

    The last one is filled up with copies of its first.
    """
    import torch

    for batch in inputs.split(size):
        missing = size - len(batch)
        filler = batch[:1].expand(missing, *batch.shape[1:])
        yield (torch.cat([batch, filler]) if missing else batch), len(batch)
