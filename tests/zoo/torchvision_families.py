"""The families of torchvision's classifiers, each by its smallest member."""

from __future__ import annotations

from typing import Any

from torch import nn

from autoprune.vision import ensure_torchvision
from tests.zoo.base import CLASSES, Entry, images, made


def _constructed(constructor: str, **settings: Any) -> nn.Module:
    """Return what torchvision's function of that name makes."""
    ensure_torchvision()
    from torchvision import models

    network: nn.Module = getattr(models, constructor)(num_classes=CLASSES, **settings)
    return network


def _vit() -> nn.Module:
    return _constructed(
        "VisionTransformer",
        image_size=32,
        patch_size=8,
        num_layers=3,
        num_heads=4,
        hidden_dim=48,
        mlp_dim=96,
    )


def _swin(version: int) -> nn.Module:
    ensure_torchvision()
    from torchvision.models import swin_transformer as swin

    parts = {
        1: {"block": swin.SwinTransformerBlock, "downsample_layer": swin.PatchMerging},
        2: {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2},
    }
    return _constructed(
        "SwinTransformer",
        patch_size=[2, 2],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        **parts[version],
    )


def _maxvit() -> nn.Module:
    return _constructed(
        "MaxVit",
        input_size=(64, 64),
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 32],
        block_layers=[1, 2],
        head_dim=8,
        stochastic_depth_prob=0.0,
    )


def _entry(name: str, size: int, **settings: Any) -> Entry:
    return made(name, "torchvision", lambda: _constructed(name, **settings), images(size))


# Drawing the weights a second time, as these do by default, takes seconds and changes nothing here.
_AS_DRAWN = {"init_weights": False}

ENTRIES = (
    _entry("alexnet", 64),
    _entry("vgg11", 32, **_AS_DRAWN),
    _entry("vgg11_bn", 32, **_AS_DRAWN),
    _entry("resnet18", 32),
    _entry("resnet50", 32),
    _entry("resnext50_32x4d", 32),
    _entry("wide_resnet50_2", 32),
    _entry("densenet121", 64),
    _entry("googlenet", 64, aux_logits=False, transform_input=False, **_AS_DRAWN),
    # The least size is 75.
    _entry("inception_v3", 96, aux_logits=False, transform_input=False, **_AS_DRAWN),
    _entry("mobilenet_v2", 64),
    _entry("mobilenet_v3_small", 64),
    _entry("mnasnet0_5", 64),
    _entry("shufflenet_v2_x0_5", 64),
    _entry("squeezenet1_1", 64),
    _entry("efficientnet_b0", 64),
    _entry("efficientnet_v2_s", 64),
    _entry("regnet_x_400mf", 64),
    _entry("regnet_y_400mf", 64),
    _entry("convnext_tiny", 64),
    made("vit", "torchvision", _vit, images(32)),
    made("swin", "torchvision", lambda: _swin(1), images(32)),
    made("swin_v2", "torchvision", lambda: _swin(2), images(32)),
    made("maxvit", "torchvision", _maxvit, images(64)),
)
