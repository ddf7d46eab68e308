"""Kernels without some of their weights, stored without them: values, and a bit for every place.

    stored = packed(network.state_dict())     # "fc.weight:values", "fc.weight:bits", "…:shape"
    state = unpacked(stored)                  # equal to what was packed

What a tensor holds is all that counts, so nothing else has to be known about the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_PARTS = ("values", "bits", "shape")
# What saves less is stored as others know it.
_WORTHWHILE = 0.9


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state whose kernels are stored without their zeros, where that is smaller.

    Such a kernel is three tensors: the values that are not zero, shape (n,), in the order of the
    kernel laid out flat; a bit for every weight, uint8, the first one highest; its shape.
    """
    stored: dict[str, Tensor] = {}
    for name, each in state.items():
        is_kernel = each.dim() > 1 and each.is_floating_point() and each.numel() > 0
        parts = _parts(each) if is_kernel else None
        stored |= {name: each} if parts is None else {f"{name}:{x}": y for x, y in parts.items()}
    return stored


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state that was packed; raises `ValueError` for parts that do not fit together.

    Nothing larger than eight times the bits that are there is allocated.
    """
    state: dict[str, Tensor] = {}
    for name, each in stored.items():
        kernel, _, part = name.rpartition(":")
        if part not in _PARTS:
            state[name] = each
        elif part == _PARTS[0]:
            state[kernel] = _whole(kernel, stored)
    return state


def _parts(kernel: Tensor) -> dict[str, Tensor] | None:
    """Return the parts of a kernel, None where they are hardly smaller than the whole."""
    is_there = kernel != 0
    size = kernel.element_size() * int(is_there.sum()) + math.ceil(kernel.numel() / 8)
    if size > _WORTHWHILE * kernel.element_size() * kernel.numel():
        return None
    bits = np.packbits(is_there.flatten().cpu().numpy())
    found = (kernel[is_there], torch.from_numpy(bits), torch.tensor(kernel.shape))
    return dict(zip(_PARTS, found, strict=True))


def _whole(kernel: str, stored: Mapping[str, Tensor]) -> Tensor:
    parts = [stored.get(f"{kernel}:{part}") for part in _PARTS]
    values, bits, shape = parts
    if values is None or bits is None or shape is None:
        raise ValueError(f"{kernel} is stored without one of {', '.join(_PARTS)}")
    sizes = [int(each) for each in shape.flatten()]
    count = math.prod(sizes)
    is_sound = bits.dtype == torch.uint8 and min(sizes, default=0) > 0
    if not is_sound or math.ceil(count / 8) != bits.numel():
        raise ValueError(f"{kernel} of shape {sizes} cannot have {bits.numel()} bytes of bits")
    is_there = torch.from_numpy(np.unpackbits(bits.flatten().numpy(), count=count)).bool()
    if int(is_there.sum()) != values.numel():
        raise ValueError(f"{kernel} has {values.numel()} values for {int(is_there.sum())} places")
    whole = values.new_zeros(count)
    whole[is_there] = values.flatten()
    return whole.view(sizes)
