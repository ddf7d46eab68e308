"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import InputError
from autoprune.runtimes.conversion import Conversion
from autoprune.runtimes.runtime import Runner, Runtime


class OnnxRunner(Runner):
    """A session of ONNX Runtime."""

    def __init__(self, model: bytes, example: Tensor, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin after a pass would take the processor from whoever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session: Any = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._feed = {self._session.get_inputs()[0].name: example.contiguous().numpy()}

    def run(self) -> None:
        """Run one pass."""
        self._session.run(None, self._feed)

    def outputs(self) -> Tensor:
        """Run one pass and return its outputs."""
        return torch.from_numpy(self._session.run(None, self._feed)[0])


class OnnxRuntime(Runtime):
    """ONNX Runtime, CPU provider, all graph optimisations."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._conversion = Conversion()

    def check(self, device: str) -> None:
        """Raise `InputError` for a GPU, and without the extra `onnx`."""
        check_cpu_runtime("onnx", device, ("onnx", "onnxscript", "onnxruntime"))

    def build(self, network: nn.Module, example: Tensor) -> Runner:
        """Convert the network, in full or as a version of an earlier one, and load it."""
        return self._conversion.build(
            network, example, lambda model: OnnxRunner(model, example.cpu(), self.threads)
        )


def check_cpu_runtime(name: str, device: str, packages: tuple[str, ...]) -> None:
    """Raise `InputError` unless `device` is the CPU and the packages are installed.

    `name` is that of the runtime and of the extra that brings them.
    """
    if device != "cpu":
        raise InputError(
            f"backend {name} runs on the CPU; use device: cpu, or on a GPU backend: torch, "
            "torch_compile or cuda_graph"
        )
    missing = [each for each in packages if importlib.util.find_spec(each) is None]
    if missing:
        raise InputError(
            f"backend {name} needs {', '.join(missing)}; pip install 'autoprune[{name}]', "
            "or use backend: torch"
        )
