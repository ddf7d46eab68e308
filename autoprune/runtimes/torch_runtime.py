"""PyTorch as it is, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from autoprune.errors import InputError
from autoprune.runtimes.remark import all_in_float32
from autoprune.runtimes.runtime import Runner, Runtime
from autoprune.runtimes.single_precision import in_single_precision

Forward = Callable[[Tensor], Tensor]


class TorchRunner(Runner):
    """Calls `forward`, which runs `network`, on inputs laid out like its weights."""

    def __init__(self, network: nn.Module, forward: Forward, example: Tensor, threads: int) -> None:
        self._network = network
        self._forward = forward
        self.example = laid_out_like(network, example)
        self._threads = threads
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(evaluating(self._network))
        self._open.enter_context(_using_threads(self._threads))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def run(self) -> None:
        """Run one pass; on a GPU wait until it has ended."""
        self._forward(self.example)
        if self.example.is_cuda:
            torch.cuda.synchronize(self.example.device)

    def outputs(self, inputs: Tensor | None = None) -> Tensor:
        """Run one pass and return its outputs, float32, on the CPU."""
        given = self.example if inputs is None else laid_out_like(self._network, inputs)
        return self._forward(given).float().cpu()


class TorchEager(Runtime):
    """Eager PyTorch, on a CPU or on CUDA, where every pass is waited for."""

    def check(self, device: str) -> None:
        """Raise `InputError` for CUDA without a CUDA device."""
        check_cuda(device)

    def of_bits(self, network: nn.Module) -> list[str]:
        """Say so if the network has quantised layers."""
        return all_in_float32(network)

    def build(
        self, network: nn.Module, example: Tensor, samples: Tensor | None = None
    ) -> TorchRunner:
        """Return a runner of the network without what rounds its inputs."""
        return self._runner(in_single_precision(network), example)

    def _runner(self, network: nn.Module, example: Tensor) -> TorchRunner:
        """Return a runner of a network that rounds nothing."""
        return TorchRunner(network, network, example, self.threads)


def check_cuda(device: str) -> None:
    """Raise `InputError` if `device` is `cuda` and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here; use device: cpu")


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients; afterwards restore every mode."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def laid_out_like(network: nn.Module, example: Tensor) -> Tensor:
    """Return an input batch channels last if the network's kernels are, otherwise as it is."""
    if example.dim() == 4 and any(is_channels_last(each) for each in network.parameters()):
        return example.contiguous(memory_format=torch.channels_last)
    return example


def is_channels_last(tensor: Tensor) -> bool:
    """Say whether a tensor lies channels last and, unlike kernels of 1×1, in no other way."""
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


@contextmanager
def _using_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
