"""Batch norms folded into the convolutions before them, as targets fold them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(network: nn.Module, pairs: Iterable[tuple[str, str]]) -> nn.Module:
    """Return `network` with each (convolution, batch norm) pair made one convolution.

    The copy shares what it does not change.
    """
    memo: dict[int, object] = {id(each): each for each in network.parameters()}
    memo |= {id(each): each for each in network.buffers()}
    for conv_name, norm_name in pairs:
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        # Both are gone when they stood in a dropped block.
        if not isinstance(conv, nn.Conv1d | nn.Conv2d) or not isinstance(norm, _BatchNorm):
            continue
        memo[id(conv)] = fuse_conv_bn_eval(conv, norm)
        memo[id(norm)] = nn.Identity()
    return copy.deepcopy(network, memo)
