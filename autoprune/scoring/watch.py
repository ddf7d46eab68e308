"""Watching what the kernels of a network read while it runs.

    with watching(model, {"conv2.weight"}, see):      # see("conv2.weight", inputs)
        model(batch)

What is watched are operations, not modules: a kernel that attention or the user's own code
multiplies with is seen like that of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autoprune.tracing.recorder import evaluation_mode, without_fast_path

See = Callable[[str, Tensor], Tensor | None]
"""Takes a kernel's name and what it reads; may return a tensor that is read instead.

What kernels of `nn.MultiheadAttention` read is shown as (samples, tokens, channels).
"""

_READERS = frozenset(
    {functional.linear, functional.conv1d, functional.conv2d, functional.conv3d}
    | {torch.conv1d, torch.conv2d, torch.conv3d}
)


@contextmanager
def watching(model: nn.Module, kernels: Collection[str], see: See) -> Iterator[None]:
    """Show `see` all that each of these kernels reads, in eval mode.

    Of a convolution in groups that is what all of its groups read, channel by channel.
    """
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
            query = args[0] if args else named["query"]
            samples = query.shape[1] if query.dim() > 2 else 1
            with patch.object(functional, "linear", partial(self._in_attention, samples)):
                return func(*args, **named)
        if func in _READERS:
            return self._read(func, args, named)
        return func(*args, **named)

    def _in_attention(self, samples: int, *args: Any, **named: Any) -> Tensor:
        # There tokens come first, and are laid out in a row for the last kernel.
        def see(name: str, inputs: Tensor) -> Tensor | None:
            shown = inputs.reshape(-1, samples, inputs.shape[-1]).transpose(0, 1)
            told = self._see(name, shown)
            return None if told is None else told.transpose(0, 1).reshape(inputs.shape)

        return self._read(torch._C._nn.linear, args, named, see)

    def _read(
        self, func: Any, args: tuple[Any, ...], named: dict[str, Any], see: See | None = None
    ) -> Tensor:
        bound = {**dict(zip(("input", "weight"), args, strict=False)), **named}
        name = self._names.get(id(bound.get("weight")))
        replaced = None if name is None else (see or self._see)(name, bound["input"])
        if replaced is not None and args:
            args = (replaced, *args[1:])
        elif replaced is not None:
            named["input"] = replaced
        result: Tensor = func(*args, **named)
        return result
