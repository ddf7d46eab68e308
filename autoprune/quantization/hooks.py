"""Watching layers while a network runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end, also where it raises."""
    held = list(handles)
    try:
        yield
    finally:
        for each in held:
            each.remove()


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a linear layer or convolution is called with."""
    inputs: Tensor = args[0] if args else kwargs["input"]
    return inputs


def with_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call that reads `inputs` instead."""
    return ((inputs, *args[1:]), kwargs) if args else (args, kwargs | {"input": inputs})


def by_position(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Return a view of a layer's outputs whose last dimension are the output channels."""
    return outputs if isinstance(layer, nn.Linear) else outputs.movedim(1, -1)
