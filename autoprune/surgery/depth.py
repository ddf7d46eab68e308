"""Leaving out whole blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph.block import Block


class Skipped(nn.Module):
    """Stands where a module of a dropped block was: passes its input on, or adds nothing."""

    def __init__(self, outputs: int, *, adds: bool) -> None:
        super().__init__()
        self.outputs = outputs
        self.adds = adds

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first tensor, or zeros like it, in a tuple where one is expected."""
        given = (*args, *kwargs.values())
        first: Tensor = next(each for each in given if isinstance(each, Tensor))
        result = torch.zeros_like(first) if self.adds else first
        return (result, *[None] * (self.outputs - 1)) if self.outputs else result


def drop(network: nn.Module, blocks: Iterable[Block]) -> None:
    """Take the modules of `blocks` out of a network, in place."""
    for block in blocks:
        for path, outputs in zip(block.modules, block.outputs, strict=True):
            network.set_submodule(path, Skipped(outputs, adds=path == block.adds))


def silence(network: nn.Module, blocks: Iterable[Block]) -> None:
    """Let the blocks run and add nothing, in place: the slow twin of `drop`."""
    for block in blocks:
        network.get_submodule(block.adds).register_forward_hook(_zeros)


def _zeros(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)
