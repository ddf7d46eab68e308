"""torchao on the CPU: linear layers in whole numbers, everything else as in eager PyTorch."""

from __future__ import annotations

import importlib
import io
import logging
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.policy import WHOLE_NUMBERS
from autoprune.quantization.form import decision_of, quantised_layers, step_name
from autoprune.runtimes.onnx_runtime import check_cpu_runtime
from autoprune.runtimes.remark import Remarks
from autoprune.runtimes.runtime import Runner, Runtime
from autoprune.runtimes.single_precision import in_single_precision
from autoprune.runtimes.torch_runtime import TorchRunner


class TorchAo(Runtime):
    """torchao: linear layers with 8-bit kernels, and inputs of 8 bits or floats."""

    whole_numbers = (nn.Linear,)

    def check(self, device: str) -> None:
        """Raise `InputError` for a GPU, and without the extra `quant`."""
        check_cpu_runtime("torchao", device, ("torchao",), extra="quant")

    def of_bits(self, network: nn.Module) -> list[str]:
        """Say which layers run otherwise than was decided."""
        said = Remarks()
        for name, layer in quantised_layers(network).items():
            decision = decision_of(layer)
            weights, inputs = decision.weight_bits, decision.activation_bits
            if not _is_run(layer):
                kind = type(layer).__name__
                said.add(name, f"torchao has no whole numbers for {kind}: it runs in float32")
                continue
            if weights < WHOLE_NUMBERS:
                said.add(name, f"{weights}-bit kernels run as 8-bit whole numbers")
            if inputs <= WHOLE_NUMBERS:
                said.add(name, f"{inputs}-bit inputs are rounded to 8 bits of each row's own range")
            if inputs == 16:
                said.add(name, "16-bit inputs run as float32")
        return said.sentences()

    def build(self, network: nn.Module, example: Tensor, samples: Tensor | None = None) -> Runner:
        """Return a runner of a copy whose linear layers hold whole numbers.

        Their inputs are rounded by the range of every row, told as they come, so there is
        nothing that `samples` could tell.
        """
        copied = in_single_precision(network)
        for name, layer in quantised_layers(network).items():
            if _is_run(layer):
                target: Any = copied.get_submodule(name)
                target.weight = nn.Parameter(_whole(layer), requires_grad=False)
        runner = TorchRunner(copied, copied, example, self.threads)
        file = io.BytesIO()
        torch.save(copied.state_dict(), file)
        runner.artifact = file.getvalue()
        return runner


def _is_run(layer: nn.Module) -> bool:
    """Say whether torchao runs a quantised layer: a linear one whose kernel has a step."""
    return type(layer) is nn.Linear and decision_of(layer).weight_bits <= WHOLE_NUMBERS


@torch.no_grad()
def _whole(layer: Any) -> Tensor:
    """Return the kernel of a linear layer as torchao's tensor, with the layer's own steps."""
    # On import it tells of every GPU library that it does not need here.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torchao: Any = importlib.import_module("torchao.quantization")
    rounds_inputs = decision_of(layer).activation_bits <= WHOLE_NUMBERS
    config = (
        torchao.Int8DynamicActivationInt8WeightConfig()
        if rounds_inputs
        else torchao.Int8WeightOnlyConfig()
    )
    model = nn.Sequential(nn.Linear(layer.in_features, layer.out_features, bias=False))
    torchao.quantize_(model, config)
    form: Any = model[0].weight
    steps = getattr(layer, step_name("weight"))[:, None]
    whole = torch.round(layer.weight / steps).to(torch.int8)
    made: Tensor = torchao.Int8Tensor(
        whole,
        steps.clone(),
        form.block_size,
        layer.weight.dtype,
        zero_point=torch.zeros_like(form.zero_point),
        act_quant_kwargs=form.act_quant_kwargs,
    )
    return made
