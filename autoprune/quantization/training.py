"""Quantisation-aware training: a network trains as it will be quantised.

    with quantisation_aware(network, policy.layers, batches, observer="percentile") as steps:
        finetune(network, ...)
    network = fold(network, pairs)          # an ordinary float network again
    quantise(network, ..., steps=folded_steps(steps, network_before_folding, pairs))

Kernels and inputs are rounded in the forward pass, with a straight-through gradient. Batch
norms stay unfolded. Folding one multiplies every output channel of the kernel before it by
γ/σ; its step, multiplied by |γ/σ|, rounds that kernel to the same whole numbers, since they are
symmetric. So what is trained here is what is deployed, whatever the statistics become.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from autoprune.job.spec import Observer
from autoprune.policy import WHOLE_NUMBERS, LayerDecision
from autoprune.quantization.calibration import calibrate
from autoprune.quantization.form import (
    INPUT_STEP,
    INPUT_ZERO,
    Steps,
    attach,
    bounds,
    kernels_of,
    state_name,
    step_name,
)
from autoprune.quantization.hooks import input_of, with_input
from autoprune.quantization.kernel_steps import kernel_steps
from autoprune.quantization.straight_through import rounded

_TINY = torch.finfo(torch.float32).tiny


@contextmanager
def quantisation_aware(
    network: nn.Module,
    decisions: Mapping[str, LayerDecision],
    batches: Sequence[Tensor],
    *,
    observer: Observer,
    learned: bool,
) -> Iterator[dict[str, Tensor]]:
    """Round what the layers of a float network hold and read, while this lasts.

    Ranges of inputs are told once, at the start, on `batches`, with batch norms as in training.
    Steps of kernels follow their largest weights. With `learned` both are parameters of the
    network: build optimizers inside. Those of inputs then start at their ranges, those of
    kernels at twice the mean size over √most (LSQ, Esser et al., ICLR 2020, section 2.1).

    What it yields holds all steps by their names in the state of a quantised network, once
    training is through. Then the network is as it was, but for what it learned, also where
    training raises.
    """
    steps: dict[str, Tensor] = {}
    inputs = _input_steps(network, decisions, batches, observer)
    with ExitStack() as stack:
        layers = {}
        for name, decision in decisions.items():
            if decision.is_quantised:
                told = [inputs.get(state_name(name, each)) for each in (INPUT_STEP, INPUT_ZERO)]
                layer = network.get_submodule(name)
                layers[name] = _Training(layer, decision, *told, learned=learned)
                stack.callback(layers[name].remove)
        yield steps
        for name, each in layers.items():
            steps |= {state_name(name, buffer): step for buffer, step in each.steps()}


def folded_steps(
    steps: Steps, network: nn.Module, pairs: Iterable[tuple[str, str]]
) -> dict[str, Tensor]:
    """Return the steps of a network whose (convolution, batch norm) pairs will be folded.

    `network` is the unfolded one, with the statistics that it is folded with.
    """
    found = dict(steps)
    for conv, norm_name in pairs:
        name = state_name(conv, step_name("weight"))
        if name in found:
            norm: Any = network.get_submodule(norm_name)
            gamma = torch.ones(()) if norm.weight is None else norm.weight.detach()
            scaled = found[name] * (gamma / (norm.running_var + norm.eps).sqrt()).abs()
            # A channel without weights, in which any step is right but zero.
            found[name] = torch.where(scaled > _TINY, scaled, 1.0)
    return found


@torch.no_grad()
def _input_steps(
    network: nn.Module,
    decisions: Mapping[str, LayerDecision],
    batches: Sequence[Tensor],
    observer: Observer,
) -> Steps:
    """Return the input steps and zero points of a network in training."""
    twin = copy.deepcopy(network).eval()
    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    attach(twin, decisions)
    # Of a single sample batch norms have no statistics.
    calibrate(twin, [x for x in batches if len(x) > 1], observer=observer, steps={})
    return twin.state_dict()


class _Training:
    """One layer while it trains as it will be quantised."""

    def __init__(
        self,
        layer: nn.Module,
        decision: LayerDecision,
        step: Tensor | None,
        zero: Tensor | None,
        *,
        learned: bool,
    ) -> None:
        self._layer = layer
        self._names = list(layer._parameters)
        self._kernels = kernels_of(layer) if decision.weight_bits < 32 else {}
        for name, kernel in self._kernels.items():
            rounding = (
                _KernelRounding(kernel, decision.weight_bits, learned=learned)
                if decision.weight_bits <= WHOLE_NUMBERS
                else _Half()
            )
            parametrize.register_parametrization(layer, name, rounding, unsafe=True)
        hooks: list[Any] = [_take_kernels] if isinstance(layer, nn.RNNBase) else []
        self._input: _InputRounding | None = None
        if step is not None and zero is not None:
            if learned:
                step = nn.Parameter(step)
                layer.register_parameter(INPUT_STEP, step)
            self._input = _InputRounding(decision.activation_bits, step, zero)
            hooks.append(self._input)
        elif decision.activation_bits < 32:
            hooks.append(_halve)
        self._handles = [layer.register_forward_pre_hook(x, with_kwargs=True) for x in hooks]

    @torch.no_grad()
    def steps(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the steps and zero points that there are now, by their buffers' names."""
        for name in self._kernels:
            made: Any = self._layer.get_submodule(f"parametrizations.{name}")
            if isinstance(made[0], _KernelRounding):
                step: Tensor = made[0].step_of(made.original)
                yield step_name(name), step.flatten().clone()
        if self._input is not None:
            yield INPUT_STEP, self._input.step.detach().abs().clamp(min=_TINY)
            yield INPUT_ZERO, self._input.zero

    def remove(self) -> None:
        """Make it an ordinary layer again, its parameters in their old order."""
        for each in self._handles:
            each.remove()
        for name in self._kernels:
            parametrize.remove_parametrizations(self._layer, name, leave_parametrized=False)
        own = self._layer._parameters
        own.pop(INPUT_STEP, None)
        for name in self._names:
            own[name] = own.pop(name)


class _Half(nn.Module):
    """Rounds a kernel to half precision."""

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the rounded kernel."""
        return kernel.half().to(kernel.dtype)


class _KernelRounding(nn.Module):
    """Rounds a kernel; steps that are learned are its parameter, of shape (outputs, 1, ...)."""

    low: Tensor
    high: Tensor

    def __init__(self, kernel: Tensor, bits: int, *, learned: bool) -> None:
        super().__init__()
        self._bits = bits
        for name, bound in zip(("low", "high"), bounds(bits), strict=True):
            value = torch.tensor(float(bound), device=kernel.device)
            self.register_buffer(name, value, persistent=False)
        self.step: nn.Parameter | None = None
        if learned:
            shape = (-1, *[1] * (kernel.dim() - 1))
            start = 2 * kernel.detach().flatten(1).abs().mean(1) / math.sqrt(bounds(bits)[1])
            self.step = nn.Parameter(torch.where(start > _TINY, start, 1.0).view(shape))

    def step_of(self, kernel: Tensor) -> Tensor:
        """Return the step of each output channel, above zero."""
        if self.step is not None:
            return self.step.abs().clamp(min=_TINY)
        found = kernel_steps(kernel, self._bits, "min_max")
        return found.view(-1, *[1] * (kernel.dim() - 1))

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the rounded kernel."""
        step = _scaled_gradient(self.step_of(kernel), kernel[0].numel(), bounds(self._bits)[1])
        return rounded(kernel, step, self.low, self.high)


class _InputRounding:
    """Rounds what a layer reads, as a hook before its calls."""

    def __init__(self, bits: int, step: Tensor, zero: Tensor) -> None:
        self.step, self.zero = step, zero
        self._levels = 2**bits - 1

    def __call__(self, _: Any, args: Any, kwargs: Any) -> Any:
        inputs = input_of(args, kwargs)
        step = self.step.abs().clamp(min=_TINY)
        step = _scaled_gradient(step, inputs[0].numel(), self._levels)
        return with_input(args, kwargs, rounded(inputs, step, -self.zero, self._levels - self.zero))


def _halve(_: Any, args: Any, kwargs: Any) -> Any:
    inputs = input_of(args, kwargs)
    return with_input(args, kwargs, inputs.half().to(inputs.dtype))


def _scaled_gradient(step: Tensor, count: int, most: int) -> Tensor:
    """Return `step`, its gradient divided by √(count · most): LSQ, section 2.2.

    `count` values share the step, whose greatest whole number is `most`.
    """
    if not step.requires_grad:
        return step
    share = 1 / math.sqrt(count * most)
    return step * share + (step * (1 - share)).detach()


def _take_kernels(layer: Any, _: Any, __: Any) -> None:
    """Let a recurrent layer use its kernels as they are now: it keeps a list of its own."""
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
