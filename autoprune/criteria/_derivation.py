"""Deriving a copy of a network by its kernels, more than once where need be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from autoprune.scoring.evidence import Evidence
from autoprune.tracing.recorder import evaluation_mode


def kernels_alone(network: nn.Module, evidence: Evidence) -> dict[str, Tensor]:
    """Let nothing but the kernels of a copy have gradients, and return them by name."""
    named = dict(network.requires_grad_(False).named_parameters(remove_duplicate=False))
    return {name: named[name].requires_grad_(True) for name in evidence.kernels}


@contextmanager
def derived(network: nn.Module) -> Iterator[None]:
    """Let a pass be derived, and its derivative again.

    Fused attention has no second derivative, and recurrent kernels of cuDNN have none at all in
    eval mode.
    """
    is_recurrent = any(isinstance(each, nn.RNNBase) for each in network.modules())
    with (
        evaluation_mode(network),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=not is_recurrent),
        _Twice(),
    ):
        yield


class _Twice(TorchFunctionMode):
    """Writes out what torch derives only once, though it could be derived again."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one function."""
        if func is functional.hardsigmoid:  # of MobileNetV3 and its kin
            return functional.relu6(args[0] + 3.0) / 6.0
        return func(*args, **(kwargs or {}))
