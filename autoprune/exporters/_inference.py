"""Modules of PyTorch as exporters read them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.contracts.exporter import Network

if TYPE_CHECKING:
    from torch import Tensor, nn


def inferring(network: nn.Module) -> Network:
    """Return what a network in eval mode computes, without gradients."""
    import torch

    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            outputs: Tensor = network(inputs)
        return outputs

    return run
