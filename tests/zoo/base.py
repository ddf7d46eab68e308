"""What an entry of the catalog is, and how a random network is made worth testing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BATCH = 2
CLASSES = 10

# Some biases are drawn with a deviation of 1e-6: no mistake with them would ever be seen.
_FAINT = 0.01

# The share of its inputs' mean that a batch norm takes away.
_CENTERED = 0.3

# One input, positional arguments, or keyword arguments.
Example = Tensor | tuple[Tensor, ...] | dict[str, Tensor]

# Names of factors that trained networks carry and fresh ones start at zero or next to it.
_SCALE = re.compile(r"gamma|layer_?scale|(^|\.)ls_?\d*(\.|$)")


@dataclass(frozen=True)
class Entry:
    """A network of the catalog, and how to build it together with inputs for it."""

    name: str
    family: str
    build: Callable[[], tuple[nn.Module, Example]]


def made(
    name: str,
    family: str,
    network: Callable[[], nn.Module],
    example: Callable[[torch.Generator], Example],
) -> Entry:
    """Return the entry whose `build` seeds, makes and enlivens `network`."""

    def build() -> tuple[nn.Module, Example]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = network().eval()
        inputs = example(torch.Generator().manual_seed(2))
        enliven(built, seed=1)
        settle(built, inputs)
        # Some networks keep what they computed in evaluation; `train` makes them forget it.
        return built.train().eval(), inputs

    return Entry(name, family, build)


def images(size: int) -> Callable[[torch.Generator], Tensor]:
    """Return what draws a batch of square images."""
    return lambda generator: torch.randn(BATCH, 3, size, size, generator=generator)


@torch.no_grad()
def enliven(network: nn.Module, seed: int) -> None:
    """Give every parameter values under which a wrong cut shows in the outputs.

    A fresh network hides mistakes: its norms are all ones and zeros, so that a statistic
    taken from the wrong channel changes nothing, and branches that start at zero, or next
    to it, contribute nothing whatever happens to them.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    for module in network.modules():
        if _is_norm(module):
            _enliven_norm(module, generator)
            done.update(id(parameter) for parameter in module.parameters(recurse=False))
    for name, parameter in network.named_parameters():
        if id(parameter) not in done:
            _enliven_parameter(name, parameter, generator)


@torch.no_grad()
def settle(network: nn.Module, example: Example) -> None:
    """Read the statistics of batch norms as multiples of what these measure on `example`.

    In evaluation a batch norm corrects nothing by itself. Were its statistics unrelated to
    its inputs, signals would explode in a deep network, or be the same for all inputs.
    """
    norms = [module for module in network.modules() if _has_statistics(module)]
    hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
    call(network, example)
    for hook in hooks:
        hook.remove()


def call(network: nn.Module, example: Example) -> Tensor:
    """Return the outputs, which some networks wrap in an object, as a tensor."""
    if isinstance(example, dict):
        outputs = network(**example)
    else:
        outputs = network(*example) if isinstance(example, tuple) else network(example)
    outputs = getattr(outputs, "logits", outputs)
    assert isinstance(outputs, Tensor)
    return outputs


def _measure(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    inputs = arguments[0]
    others = [axis for axis in range(inputs.dim()) if axis != 1]
    # A channel's own deviation, measured on few pixels, can be next to nothing: dividing by
    # it, layer by layer, blows rounding errors up to the size of the outputs. So can
    # centering; without any, though, outputs hardly depend on inputs.
    offset = _CENTERED * inputs.mean(others)
    power = (inputs.movedim(1, -1) - offset).square().mean()
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    norm.running_mean.mul_(power.sqrt()).add_(offset)
    norm.running_var.mul_(power)


def _is_norm(module: nn.Module) -> bool:
    # Libraries bring their own norms, so it is the class's name that tells. Blocks such as
    # "ConvNormAct" have no weight of their own.
    weight = getattr(module, "weight", None)
    is_named = any("norm" in kind.__name__.lower() for kind in type(module).__mro__)
    has_weight = isinstance(weight, Tensor) and weight.dim() == 1
    return is_named and (has_weight or _has_statistics(module))


def _has_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_var", None) is not None


def _enliven_norm(module: nn.Module, generator: torch.Generator) -> None:
    for name, value in (
        *module.named_parameters(recurse=False),
        *module.named_buffers(recurse=False),
    ):
        if name in ("weight", "running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name in ("bias", "running_mean"):
            value.normal_(0, 0.1, generator=generator)


def _enliven_parameter(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if _SCALE.search(name):
        parameter.uniform_(0.5, 1.5, generator=generator)
    elif bool((parameter == parameter.flatten()[0]).all()):
        _enliven_constant(parameter, generator)
    elif parameter.dim() > 1:
        _strengthen(parameter)
    elif parameter.std() < _FAINT:
        parameter.normal_(0, 0.1, generator=generator)


def _enliven_constant(parameter: nn.Parameter, generator: torch.Generator) -> None:
    # Numbers vary around a constant: a gate or a temperature of one stays one of its kind.
    constant = parameter.flatten()[0].item() or 1.0
    if parameter.any() or parameter.numel() == 1:
        parameter.uniform_(0.5, 1.5, generator=generator).mul_(constant)
    else:
        parameter.normal_(0, 0.1, generator=generator)


def _strengthen(weight: nn.Parameter) -> None:
    # Some initialisations rely on norms measuring their statistics: depthwise convolutions
    # drawn by fan-out, transformers by a fixed 0.02. Elsewhere signals fade layer by layer,
    # and attention is flat whatever its keys are.
    target = math.sqrt(weight.shape[0] / weight.numel())
    deviation = weight.std().item()
    if deviation < 0.75 * target:
        weight.mul_(target / deviation)
