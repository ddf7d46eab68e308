"""Calibration: the ranges of what layers read, told on data by the unrounded network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import InputError, NonFiniteError
from autoprune.job.spec import Observer
from autoprune.policy import WHOLE_NUMBERS
from autoprune.quantization.form import (
    INPUT_STEP,
    INPUT_ZERO,
    Steps,
    decision_of,
    quantised_layers,
    state_name,
    unrounded,
)
from autoprune.quantization.hooks import hooked, input_of
from autoprune.quantization.observers import OBSERVERS, RangeObserver, affine


@torch.no_grad()
def calibrate(
    network: nn.Module, batches: Iterable[Tensor], *, observer: Observer, steps: Steps
) -> None:
    """Set the input steps and zero points of a quantised network's layers, in place.

    `steps` are those that are known already. For the others `network`, in eval mode, runs over
    `batches` (n, ...) once, and while it does nothing is rounded. Raises `NonFiniteError`
    naming the layer that reads NaN or infinity, `InputError` where the network cannot take the
    batches, and for a layer that they never reach.
    """
    layers = {}
    for name, layer in quantised_layers(network).items():
        if decision_of(layer).activation_bits > WHOLE_NUMBERS:
            continue
        known = [steps.get(state_name(name, each)) for each in (INPUT_STEP, INPUT_ZERO)]
        if known[0] is None or known[1] is None:
            layers[name] = layer
        else:
            _set_input(layer, known[0], known[1])
    if not layers:
        return
    seen: dict[str, RangeObserver] = {}
    handles = (
        each.register_forward_pre_hook(_observing(name, observer, seen), with_kwargs=True)
        for name, each in layers.items()
    )
    with hooked(handles), unrounded(network):
        _run(network, batches)
    for name, layer in layers.items():
        if name not in seen:
            raise InputError(
                f"layer {name!r} read nothing while the network ran over the calibration "
                "inputs, so the range of its inputs is unknown; give it 32 activation bits"
            )
        bits = decision_of(layer).activation_bits
        low, high = (torch.tensor(end) for end in seen[name].range(bits))
        _set_input(layer, *affine(low, high, bits))


def _set_input(layer: nn.Module, step: Tensor, zero: Tensor) -> None:
    getattr(layer, INPUT_STEP).copy_(step)
    getattr(layer, INPUT_ZERO).copy_(zero)


def _observing(name: str, observer: Observer, seen: dict[str, RangeObserver]) -> Any:
    def observe(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if name not in seen:
            seen[name] = OBSERVERS[observer]()
        try:
            seen[name].observe(input_of(args, kwargs))
        except NonFiniteError as error:
            raise NonFiniteError(f"layer {name!r} reads {error} in calibration") from error

    return observe


def _run(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Run a network over batches; an `InputError` names the layer that cannot take its inputs."""
    entered: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def entering(name: str) -> Any:
        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor):
                entered[:] = [(name, layer, tuple(given.shape))]

        return enter

    handles = (
        each.register_forward_pre_hook(entering(name), with_kwargs=True)
        for name, each in network.named_modules()
        if isinstance(each, _KNOWN)
    )
    with hooked(handles):
        for batch in batches:
            entered.clear()
            try:
                network(batch)
            except (RuntimeError, ValueError) as error:
                if not entered or _fits(*entered[0][1:]):
                    raise
                name, layer, shape = entered[0]
                raise InputError(
                    f"the network cannot run on calibration inputs of shape "
                    f"{tuple(batch.shape)}: its layer {name!r} takes {_taken(layer)}, given "
                    f"{shape}; give inputs of the shape that it was trained with"
                ) from error


_CONVS = nn.Conv1d, nn.Conv2d, nn.Conv3d
_KNOWN = (*_CONVS, nn.Linear, nn.RNNBase)


def _taken(layer: Any) -> str:
    """Return the shape that a layer takes, in words."""
    if isinstance(layer, _CONVS):
        sizes = ("length",), ("height", "width"), ("depth", "height", "width")
        return f"(n, {layer.in_channels}, {', '.join(sizes[len(layer.kernel_size) - 1])})"
    return f"(n, ..., {_features(layer)})"


def _fits(layer: Any, shape: tuple[int, ...]) -> bool:
    if isinstance(layer, _CONVS):
        spatial = len(layer.kernel_size)
        return len(shape) in (spatial + 1, spatial + 2) and shape[-spatial - 1] == layer.in_channels
    return bool(shape) and shape[-1] == _features(layer)


def _features(layer: nn.Linear | nn.RNNBase) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.input_size
