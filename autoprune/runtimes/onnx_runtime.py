"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from autoprune.errors import InputError
from autoprune.runtimes.conversion import Conversion
from autoprune.runtimes.onnx_session import session
from autoprune.runtimes.remark import of_eight_bits
from autoprune.runtimes.runtime import Runner, Runtime


class OnnxRunner(Runner):
    """A session of ONNX Runtime."""

    def __init__(self, model: bytes, example: Tensor, threads: int) -> None:
        self.artifact = model
        self.example = example
        self._session = session(model, threads)
        self._feed = {self._session.get_inputs()[0].name: example.contiguous().numpy()}

    def run(self) -> None:
        """Run one pass."""
        self._session.run(None, self._feed)

    def outputs(self, inputs: Tensor | None = None) -> Tensor:
        """Run one pass and return its outputs."""
        feed = self._feed
        if inputs is not None:
            feed = dict.fromkeys(feed, inputs.cpu().contiguous().numpy())
        return torch.from_numpy(self._session.run(None, feed)[0])


class OnnxRuntime(Runtime):
    """ONNX Runtime, CPU provider, all graph optimisations; whole numbers of 8 bits."""

    whole_numbers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._conversion = Conversion()

    def check(self, device: str) -> None:
        """Raise `InputError` for a GPU, and without the extra `onnx`."""
        check_cpu_runtime("onnx", device, ("onnx", "onnxscript", "onnxruntime"), "onnx")

    def of_bits(self, network: nn.Module) -> list[str]:
        """Say which layers run otherwise than was decided."""
        return of_eight_bits(network).sentences()

    def build(self, network: nn.Module, example: Tensor, samples: Tensor | None = None) -> Runner:
        """Convert the network, in full or as a version of an earlier one, and load it."""

        def load(model: bytes) -> Runner:
            return OnnxRunner(model, example.cpu(), self.threads)

        return self._conversion.build(network, example, samples, load)


def check_cpu_runtime(name: str, device: str, packages: tuple[str, ...], extra: str) -> None:
    """Raise `InputError` unless `device` is the CPU and the packages, of an extra, are there."""
    if device != "cpu":
        raise InputError(
            f"backend {name} runs on the CPU; use device: cpu, or on a GPU backend: torch, "
            "torch_compile or cuda_graph"
        )
    missing = [each for each in packages if importlib.util.find_spec(each) is None]
    if missing:
        raise InputError(
            f"backend {name} needs {', '.join(missing)}; pip install 'autoprune[{extra}]', "
            "or use backend: torch"
        )
