"""The user's example input: one tensor, a tuple of positional or a dict of named ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.errors import ModelError

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


def call(model: nn.Module, example: Example) -> Any:
    """Run `model` on an example input and return whatever it returns."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple):
        return model(*example)
    return model(example)


def tensors_of(outputs: Any) -> list[Tensor]:
    """Return the floating tensors of a network's output, in a fixed order."""
    found = [each for each in tree_leaves(_plain(outputs)) if isinstance(each, Tensor)]
    return [each for each in found if each.is_floating_point()]


def logits_of(outputs: Any) -> Tensor:
    """Return the logits: the output itself, its `logits`, or its first floating tensor.

    Raises `ModelError` when there is none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    named = outputs.get("logits") if isinstance(outputs, Mapping) else None
    named = getattr(outputs, "logits", None) if named is None else named
    found = named if isinstance(named, Tensor) else next(iter(tensors_of(outputs)), None)
    if found is None:
        raise ModelError(f"the model returns no tensor, but {type(outputs).__name__}")
    return found


def described(example: Example) -> str:
    """Say what an example input looks like."""
    if isinstance(example, Tensor):
        return f"shape {tuple(example.shape)}"
    pairs = example.items() if isinstance(example, Mapping) else enumerate(example)
    parts = (
        f"{key}: {tuple(each.shape) if isinstance(each, torch.Tensor) else each!r}"
        for key, each in pairs
    )
    return "{" + ", ".join(parts) + "}"


def _plain(outputs: Any) -> Any:
    """Turn output objects with named fields into dicts, which can be walked."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    fields = getattr(outputs, "__dataclass_fields__", None)
    return {name: getattr(outputs, name) for name in fields} if fields else outputs
