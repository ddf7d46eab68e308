"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.quantization.form import quantised_layers
from autoprune.runtimes.conversion import Conversion
from autoprune.runtimes.onnx_runtime import check_cpu_runtime
from autoprune.runtimes.processor import saturates
from autoprune.runtimes.remark import in_eight_bits, of_eight_bits
from autoprune.runtimes.runtime import Runner, Runtime


class OpenVinoRunner(Runner):
    """A model of OpenVINO, `compiled`."""

    def __init__(self, core: Any, model: bytes, example: Tensor, threads: int) -> None:
        import openvino

        self.artifact = model
        self.example = example.contiguous()
        # Its own default is bfloat16 wherever the processor has it, which is another network
        # than the one whose error is measured.
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.compiled = core.compile_model(_read(core, model), "CPU", options)
        self._request = self.compiled.create_infer_request()
        self._tensor = openvino.Tensor(self.example.numpy(), shared_memory=True)
        self._request.set_input_tensor(self._tensor)

    def run(self) -> None:
        """Run one pass."""
        self._request.infer()

    def outputs(self, inputs: Tensor | None = None) -> Tensor:
        """Run one pass and return its outputs."""
        import openvino

        if inputs is not None:
            given = inputs.cpu().contiguous().numpy()
            self._request.set_input_tensor(openvino.Tensor(given, shared_memory=True))
        self._request.infer()
        self._request.set_input_tensor(self._tensor)
        return torch.from_numpy(self._request.get_output_tensor().data.copy())


def _read(core: Any, model: bytes) -> Any:
    """Return a model as OpenVINO reads it.

    Recurrent layers want kernels that are constants; folding them folds all kernels.
    """
    from openvino import passes

    read = core.read_model(model)
    if any(each.get_type_name().endswith("Sequence") for each in read.get_ops()):
        manager = passes.Manager()
        manager.register_pass(passes.ConstantFolding())
        manager.run_passes(read)
    return read


class OpenVino(Runtime):
    """OpenVINO for least latency, one stream, float32 or whole numbers; it reads ONNX."""

    whole_numbers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._conversion = Conversion()
        self._core: Any = None

    def check(self, device: str) -> None:
        """Raise `InputError` for a GPU, and without the extra `openvino`."""
        check_cpu_runtime(
            "openvino", device, ("openvino", "onnx", "onnxscript", "onnxruntime"), "openvino"
        )

    def of_bits(self, network: nn.Module) -> list[str]:
        """Say which layers run otherwise than was decided."""
        said = of_eight_bits(network)
        if saturates():
            for name in in_eight_bits(network):
                said.add(
                    name,
                    "sums of 8-bit products saturate in OpenVINO on this processor (x86 without "
                    "VNNI); kernels of at most 7 bits are exact",
                )
        if any(isinstance(each, nn.RNNBase) for each in quantised_layers(network).values()):
            for name in quantised_layers(network):
                said.add(name, "OpenVINO runs all layers of a recurrent network in float32")
        return said.sentences()

    def build(self, network: nn.Module, example: Tensor, samples: Tensor | None = None) -> Runner:
        """Convert the network, in full or as a version of an earlier one, and compile it."""
        import openvino

        self._core = self._core or openvino.Core()

        def load(model: bytes) -> Runner:
            return OpenVinoRunner(self._core, model, example.cpu(), self.threads)

        return self._conversion.build(network, example, samples, load)
