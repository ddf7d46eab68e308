"""Adaptive rounding: up or down so that a layer's outputs, not its kernel, err least.

Every layer in turn, in the order of the forward pass, is solved on what the quantised network
really reads there, x, for what the float network gives there, y: first the kernel and the
bias whose outputs are closest to y in least squares, then whole numbers for one input after
the other, the error of each made up for by those that are not rounded yet: OBQ (Frantar and
Alistarh, Optimal Brain Compression, NeurIPS 2022) in one order for all outputs, as GPTQ has it
(Frantar et al., ICLR 2023). That takes the second moments of x, and no gradient.

AdaRound (Nagel et al., ICML 2020) learns up or down by gradients. On a ResNet-20 with kernels
of 3 and 4 bits, 2,000 test images, it is right on 91.1 % and 91.9 % after 300 steps a layer,
91.0 % and 92.3 % after 2,000; this is on 91.6 % and 92.1 %, in a twentieth of the time of 300.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoprune.errors import NonFiniteError
from autoprune.policy import WHOLE_NUMBERS
from autoprune.quantization.form import bounds, decision_of, quantised_layers
from autoprune.quantization.hooks import by_position, hooked, input_of
from autoprune.quantization.rounding import round_layer
from autoprune.surgery.reconstruct import windows
from autoprune.tracing.layers import is_plain

# Output positions (pixels, tokens) of each sample that a layer is solved on.
_POSITIONS = 40
# Added to the second moments, as a share of their mean, with the inputs for each sample: it
# keeps the system definite, and the kernel the one that is there where samples are few.
_RIDGE = 1e-2


@torch.no_grad()
def adapt_rounding(network: nn.Module, reference: nn.Module, batches: Sequence[Tensor]) -> None:
    """Round the kernels of a quantised network whose steps are set, and correct biases, in place.

    `reference` is the float network, both in eval mode; all of `batches` (n, ...) run through
    each of them once, together. Kernels that their layer does not use by itself, as in
    recurrent layers and attention, are rounded to the nearest. Raises `NonFiniteError` naming
    the layer that reads or gives NaN or infinity.
    """
    inputs = torch.cat(list(batches))
    targets = _targets(network, reference, inputs)
    for name, layer in quantised_layers(network).items():
        if name not in targets:
            round_layer(layer)
    handles = (
        network.get_submodule(name).register_forward_pre_hook(_Adapting(each), with_kwargs=True)
        for name, each in targets.items()
    )
    with hooked(handles):
        network(inputs)


class _Target(NamedTuple):
    """Some outputs (n, m) of the float layer `name`, and where in its grid of outputs."""

    name: str
    outputs: Tensor
    positions: tuple[Tensor, ...]


def _targets(network: nn.Module, reference: nn.Module, inputs: Tensor) -> dict[str, _Target]:
    """Return what layers that can be solved give in the float network, at their first call."""
    found: dict[str, _Target] = {}

    def taking(name: str) -> Any:
        def take(layer: nn.Module, _: Any, outputs: Tensor) -> None:
            if name not in found:
                grid = by_position(layer, outputs)
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                drawn = torch.randperm(math.prod(grid.shape[:-1]), generator=generator)
                drawn = drawn[: _POSITIONS * len(inputs)].to(outputs.device)
                positions = torch.unravel_index(drawn, grid.shape[:-1])
                found[name] = _Target(name, grid[positions], positions)

        return take

    handles = (
        reference.get_submodule(name).register_forward_hook(taking(name))
        for name, each in quantised_layers(network).items()
        if is_plain(each) and decision_of(each).weight_bits <= WHOLE_NUMBERS
    )
    with hooked(handles):
        reference(inputs)
    return found


class _Adapting:
    """Rounds the kernel of a layer just before its first call, on what that call reads."""

    def __init__(self, target: _Target) -> None:
        self._target: _Target | None = target

    def __call__(self, layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._target is None:
            return
        (name, outputs, positions), self._target = self._target, None
        inputs, groups = input_of(args, kwargs), getattr(layer, "groups", 1)
        grid = inputs if isinstance(layer, nn.Linear) else windows(layer, inputs)
        reads = grid[positions].flatten(1).unflatten(1, (groups, -1)).transpose(0, 1)
        gives = outputs.unflatten(1, (groups, -1)).transpose(0, 1)
        kernel = layer.weight.flatten(1).unflatten(0, (groups, -1))
        steps = layer.weight_step.unflatten(0, (groups, -1))
        has_bias = layer.bias is not None
        # A bias makes up for the means, whatever the kernel: without them it is solved alone.
        read_means = reads.mean(1, keepdim=True) * float(has_bias)
        given_means = gives.mean(1, keepdim=True) * float(has_bias)
        decision = decision_of(layer)
        there = kernel != 0 if decision.is_sparse else None
        found = adapted(
            kernel, steps, decision.weight_bits, reads - read_means, gives - given_means, there
        )
        if not found.isfinite().all():
            raise NonFiniteError(f"layer {name!r} reads or gives NaN or infinity")
        layer.weight.copy_(found.view(layer.weight.shape))
        if has_bias:
            layer.bias.copy_((given_means - read_means @ found.mT).flatten())


def adapted(
    kernel: Tensor,
    steps: Tensor,
    bits: int,
    reads: Tensor,
    gives: Tensor,
    there: Tensor | None = None,
) -> Tensor:
    """Return multiples of steps (g, m) that take `reads` close to `gives`, shape (g, m, d).

    `kernel` (g, m, d) is where to start from: g groups that have nothing to do with each other,
    with m outputs and d inputs each; `reads` (g, n, d), `gives` (g, n, m). Weights that are not
    `there`, bool (g, m, d), stay zero. It is NaN where reads or gives hold NaN or infinity.
    """
    count = reads.shape[1]
    gram = (reads.mT @ reads).double() / count
    cross = (reads.mT @ (gives - reads @ kernel.mT)).double() / count
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += (_RIDGE + len(gram[0]) / count) * diagonal.mean(1, keepdim=True).clamp(min=1e-30)
    factor, _ = torch.linalg.cholesky_ex(gram)
    solved = kernel.double() + torch.cholesky_solve(cross, factor).mT
    # Row j of this factor tells how the inputs after j make up for an error in j.
    inverse, _ = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
    share = (inverse / inverse.diagonal(dim1=1, dim2=2)[..., None]).to(kernel.dtype)
    return _sequential(solved.to(kernel.dtype), steps, bits, share, there)


def _sequential(
    kernel: Tensor, steps: Tensor, bits: int, share: Tensor, there: Tensor | None
) -> Tensor:
    """Round the inputs of a kernel (g, m, d) one by one, and correct those behind; overwrites it.

    `share` (g, d, d): what of an error in one input goes to each of those behind it.
    """
    least, most = bounds(bits)
    for j in range(kernel.shape[2]):
        column = kernel[:, :, j].clone()
        fixed = (column / steps).round_().clamp_(least, most) * steps
        if there is not None:
            fixed *= there[:, :, j]
        kernel[:, :, j] = fixed
        kernel[:, :, j + 1 :].baddbmm_(
            (column - fixed)[..., None], share[:, j, None, j + 1 :], alpha=-1
        )
    return kernel
