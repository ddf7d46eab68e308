"""Bias correction: what rounding adds to the mean of an output channel leaves its bias.

Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction, ICCV
2019, section 4.2, with the means measured on data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.quantization.form import quantised_layers
from autoprune.quantization.hooks import by_position, hooked
from autoprune.tracing.layers import is_plain


@torch.no_grad()
def correct_biases(network: nn.Module, reference: nn.Module, batches: Iterable[Tensor]) -> None:
    """Correct the biases of a quantised network's linear layers and convolutions, in place.

    `reference` is the float network, both in eval mode; each of them runs once over every one
    of `batches` (n, ...). A layer is corrected as it runs, so that those behind it read what
    it gives from then on; later batches refine what the first ones told. Layers without a bias
    stay without: the state of the network keeps its names.
    """
    layers = {
        name: _Correction(each)
        for name, each in quantised_layers(network).items()
        if is_plain(each) and each.bias is not None
    }
    taking = (reference.get_submodule(x).register_forward_hook(y.take) for x, y in layers.items())
    correcting = (each.layer.register_forward_hook(each.correct) for each in layers.values())
    with hooked(taking), hooked(correcting):
        for batch in batches:
            for each in layers.values():
                each.wanted.clear()
            reference(batch)
            network(batch)


class _Correction:
    """The bias of one layer, and the means that its channels have in the float network."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.wanted: list[Tensor] = []
        self._seen = 0

    def take(self, layer: nn.Module, _: Any, outputs: Tensor) -> None:
        self.wanted.append(_means(layer, outputs))

    def correct(self, layer: nn.Module, _: Any, outputs: Tensor) -> Tensor:
        missing = self.wanted.pop(0) - _means(layer, outputs)
        self._seen += len(outputs)
        change = (missing * (len(outputs) / self._seen)).to(outputs.dtype)
        self.layer.bias += change
        by_position(layer, outputs).add_(change)
        return outputs


def _means(layer: nn.Module, outputs: Tensor) -> Tensor:
    return by_position(layer, outputs).flatten(0, -2).mean(0)
