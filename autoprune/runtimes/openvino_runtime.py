"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.runtimes.conversion import Conversion
from autoprune.runtimes.onnx_runtime import check_cpu_runtime
from autoprune.runtimes.runtime import Runner, Runtime


class OpenVinoRunner(Runner):
    """A compiled model of OpenVINO."""

    def __init__(self, core: Any, model: bytes, example: Tensor, threads: int) -> None:
        import openvino

        # Its own default is bfloat16 wherever the processor has it, which is another network
        # than the one whose error is measured.
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = core.compile_model(
            core.read_model(model), "CPU", options
        ).create_infer_request()
        self._example = example.contiguous().numpy()
        self._request.set_input_tensor(openvino.Tensor(self._example))

    def run(self) -> None:
        """Run one pass."""
        self._request.infer()

    def outputs(self) -> Tensor:
        """Run one pass and return its outputs."""
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor().data.copy())


class OpenVino(Runtime):
    """OpenVINO for least latency, one stream, float32; networks come to it by way of ONNX."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._conversion = Conversion()
        self._core: Any = None

    def check(self, device: str) -> None:
        """Raise `InputError` for a GPU, and without the extra `openvino`."""
        check_cpu_runtime("openvino", device, ("openvino", "onnx", "onnxscript"))

    def build(self, network: nn.Module, example: Tensor) -> Runner:
        """Convert the network, in full or as a version of an earlier one, and compile it."""
        import openvino

        self._core = self._core or openvino.Core()
        return self._conversion.build(
            network,
            example,
            lambda model: OpenVinoRunner(self._core, model, example.cpu(), self.threads),
        )
