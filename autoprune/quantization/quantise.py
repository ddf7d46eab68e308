"""Quantising a network after training, in place: ranges of inputs, steps, rounded kernels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from autoprune.job.spec import Observer
from autoprune.policy import LayerDecision, Rounding
from autoprune.quantization.adaptation import adapt_rounding
from autoprune.quantization.bias_correction import correct_biases
from autoprune.quantization.calibration import calibrate
from autoprune.quantization.form import Steps, attach
from autoprune.quantization.kernel_steps import WeightObserver
from autoprune.quantization.rounding import round_kernels, set_kernel_steps


@torch.no_grad()
def quantise(
    network: nn.Module,
    decisions: Mapping[str, LayerDecision],
    batches: Sequence[Tensor],
    *,
    observer: Observer,
    weight_observer: WeightObserver,
    rounding: Rounding,
    steps: Steps | None = None,
) -> None:
    """Give a float network, folded and in eval mode, the form of `quantization.form`, in place.

    `decisions` name its layers. `batches` of its inputs (n, ...) tell the ranges of what layers
    read, and what rounding changes. `steps`, by their names in the state of the quantised
    network, come from training and replace what observers would tell.
    """
    reference = network if rounding == "nearest" else copy.deepcopy(network)
    attach(network, decisions)
    calibrate(network, batches, observer=observer, steps=steps or {})
    set_kernel_steps(network, observer=weight_observer, steps=steps or {})
    if rounding == "adaptive":
        adapt_rounding(network, reference, batches)
        return
    round_kernels(network)
    if rounding == "bias_corrected":
        correct_biases(network, reference, batches)
