"""PyTorch compiled: `torch.compile` with its default backend and fixed shapes."""

from __future__ import annotations

import os
import shutil
import types
import warnings

import torch
from torch import Tensor, nn

from autoprune.errors import InputError
from autoprune.runtimes.torch_runtime import TorchEager, TorchRunner, check_cuda


class TorchCompile(TorchEager):
    """`torch.compile`; a network takes from seconds to a minute to compile."""

    def check(self, device: str) -> None:
        """Raise `InputError` without a CUDA device, or without a C++ compiler on a CPU."""
        check_cuda(device)
        compiler = os.environ.get("CXX", "g++")
        if device == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
            raise InputError(
                f"torch_compile needs a C++ compiler, and {compiler!r} is not installed; "
                "install g++, set CXX, or use backend: torch"
            )

    def _runner(self, network: nn.Module, example: Tensor) -> TorchRunner:
        """Return a runner that is compiled already."""

        def forward(inputs: Tensor) -> Tensor:
            outputs: Tensor = network(inputs)
            return outputs

        # What is compiled belongs to a code object, and after eight networks of one class
        # PyTorch would run the ninth without compiling it, and say nothing.
        own = types.FunctionType(
            forward.__code__.replace(), forward.__globals__, closure=forward.__closure__
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner = TorchRunner(network, torch.compile(own, dynamic=False), example, self.threads)
            with runner, torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
                runner.run()
        return runner
