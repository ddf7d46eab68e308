"""The fast form in which candidates are judged: channels last, and the fastest number format
that agrees with float32 on this machine.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BATCH = 250
# Allowed disagreement of predicted classes with float32; well below the standard error.
_MAX_DISAGREEMENT = 0.02


def best_device(wanted: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device; `auto` prefers CUDA where it works."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def channels_last(model: nn.Module) -> nn.Module:
    """Lay four-dimensional weights out channels last, in place; it is faster on CPU and GPU."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy with weights in `dtype` that *shares* the batch norms of `network`.

    Batch norms stay float32, and statistics gathered through the copy land in `network`.
    """
    if dtype is torch.float32:
        return network
    memo: dict[int, object] = {}
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            memo[id(module)] = module
            continue
        for parameter in module.parameters(recurse=False):
            memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(network, memo)


@torch.inference_mode()
def predict(network: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """Return float32 logits (n, classes) of all batches in `inputs`, in order."""
    return torch.cat([network(batch).float() for batch in inputs])


def fastest_dtype(network: nn.Module, inputs: Tensor) -> torch.dtype:
    """Choose float32 or bfloat16 by timing both on `inputs` (n, ...), float32.

    bfloat16 is taken only if it is at least a tenth faster and predicts the same classes
    for all but 2 % of the inputs.
    """
    network.eval()
    seconds, classes = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        try:
            form, batch = cast(network, dtype), [inputs.to(dtype)]
            predict(form, batch)
            laps = []
            for _ in range(3):
                start = time.perf_counter()
                classes[dtype] = predict(form, batch).argmax(dim=1).cpu()
                laps.append(time.perf_counter() - start)
            seconds[dtype] = min(laps)
        except RuntimeError:  # a layer without a bfloat16 kernel
            return torch.float32
    disagreement = float((classes[torch.float32] != classes[torch.bfloat16]).float().mean())
    faster = seconds[torch.bfloat16] < 0.9 * seconds[torch.float32]
    agrees = disagreement <= _MAX_DISAGREEMENT
    return torch.bfloat16 if faster and agrees else torch.float32
