"""A CUDA graph: all kernels of a pass launched at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.errors import InputError
from autoprune.runtimes.torch_runtime import (
    TorchEager,
    TorchRunner,
    check_cuda,
    evaluating,
    laid_out_like,
)

_WARM_PASSES = 3


class CudaGraph(TorchEager):
    """Eager PyTorch captured once and replayed; every pass is waited for."""

    def check(self, device: str) -> None:
        """Raise `InputError` unless `device` is a CUDA device that is there."""
        if device != "cuda":
            raise InputError("a CUDA graph runs on a GPU; use device: cuda, or backend: torch")
        check_cuda(device)

    def _runner(self, network: nn.Module, example: Tensor) -> TorchRunner:
        """Return a runner that replays the captured pass on the same memory."""
        inputs = laid_out_like(network, example)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(example.device), evaluating(network):
            # Libraries set themselves up in the first passes, which cannot be captured.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_PASSES):
                    network(inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                outputs: Tensor = network(inputs)

        def replay(given: Tensor) -> Tensor:
            if given is not inputs:
                inputs.copy_(given)
            graph.replay()
            return outputs

        return TorchRunner(network, replay, inputs, self.threads)
