"""The numbers that modules remember about their tensors, after units have left."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.surgery.attention import SlimAttention


def refresh(module: nn.Module) -> None:
    """Bring the sizes of a standard module in line with its tensors."""
    if isinstance(module, _ConvNd):
        made, read = module.weight.shape[:2]
        if module.transposed:
            made, read = read, made
        # `groups` is set on its own: the group that owns it lists it.
        module.out_channels, module.in_channels = made, read * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _BatchNorm):
        tensor = module.weight if module.affine else module.running_mean
        module.num_features = len(tensor) if tensor is not None else module.num_features
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif type(module) is nn.MultiheadAttention:
        module.__class__ = SlimAttention
        module.dense_head_dim = module.head_dim
        module._qkv_same_embed_dim = False  # keeps encoder layers off their fused path


def set_size(network: nn.Module, name: str, place: int, count: int) -> None:
    """Set a number that counts entries; `place` is its index in a tuple or list, or -1."""
    owner, _, attribute = name.rpartition(".")
    module = network.get_submodule(owner)
    value: object = count
    if place >= 0:
        old = getattr(module, attribute)
        value = type(old)([*old[:place], count, *old[place + 1 :]])
    setattr(module, attribute, value)
    if isinstance(module, _ConvNd) and attribute == "groups":
        refresh(module)
