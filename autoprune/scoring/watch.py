"""Watching what the kernels of a network read while it runs.

    with watching(model, {"conv2.weight"}, see):      # see("conv2.weight", inputs)
        model(batch)

What is watched are operations, not modules: a kernel that attention or the user's own code
multiplies with is seen like that of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autoprune.tracing.recorder import evaluation_mode, without_fast_path

See = Callable[[str, Tensor], Tensor | None]
"""Takes a kernel's name and what it reads; may return a tensor that is read instead."""

_READERS = frozenset(
    {functional.linear, functional.conv1d, functional.conv2d, functional.conv3d}
    | {torch.conv1d, torch.conv2d, torch.conv3d}
)


@contextmanager
def watching(model: nn.Module, kernels: Collection[str], see: See) -> Iterator[None]:
    """Show `see` what each of these kernels reads, in eval mode; convolutions in one group."""
    names = {
        id(each): name
        for name, each in model.named_parameters(remove_duplicate=False)
        if name in kernels
    }
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(without_fast_path())
        stack.enter_context(_Watch(names, see))
        yield


class _Watch(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str], see: See) -> None:
        super().__init__()
        self._names = names
        self._see = see

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one function, and show what it reads where it multiplies with a kernel."""
        named = dict(kwargs or {})
        if func is functional.multi_head_attention_forward:
            # It calls `linear` itself, where no mode is asked any more.
            with patch.object(functional, "linear", self._linear):
                return func(*args, **named)
        if func in _READERS:
            return self._read(func, args, named)
        return func(*args, **named)

    def _linear(self, *args: Any, **named: Any) -> Tensor:
        return self._read(torch._C._nn.linear, args, named)

    def _read(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        bound = {**dict(zip(("input", "weight"), args, strict=False)), **named}
        name = self._names.get(id(bound.get("weight")))
        replaced = None if name is None else self._see(name, bound["input"])
        if replaced is not None and args:
            args = (replaced, *args[1:])
        elif replaced is not None:
            named["input"] = replaced
        result: Tensor = func(*args, **named)
        return result
