"""Families that timm has and torchvision lacks, each by a small member."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from autoprune.vision import ensure_torchvision
from tests.zoo.base import CLASSES, Entry, images, made


def _created(name: str, **settings: Any) -> nn.Module:
    """Return what timm's registry makes under that name."""
    ensure_torchvision()
    import timm

    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **settings)


# The constructors below fix their own widths and depths, so the classes are used directly.
def _mlp(kind: str) -> nn.Module:
    """Return a network of multilayer perceptrons over patches: of a mixer, ResMLP or gMLP."""
    ensure_torchvision()
    from timm.layers.mlp import GatedMlp
    from timm.models import mlp_mixer as mlp

    settings: dict[str, dict[str, Any]] = {
        "mixer": {},
        "resmlp": {"block_layer": mlp.ResBlock, "norm_layer": mlp.Affine, "mlp_ratio": 4},
        "gmlp": {
            "block_layer": mlp.SpatialGatingBlock,
            "mlp_layer": GatedMlp,
            "mlp_ratio": 4,
        },
    }
    return mlp.MlpMixer(
        num_classes=CLASSES,
        img_size=32,
        patch_size=8,
        num_blocks=3,
        embed_dim=48,
        **settings[kind],
    )


def _convmixer() -> nn.Module:
    ensure_torchvision()
    from timm.models.convmixer import ConvMixer

    return ConvMixer(dim=48, depth=3, kernel_size=5, patch_size=4, num_classes=CLASSES)


def _entry(name: str, size: int = 64, **settings: Any) -> Entry:
    return made(name, "timm", lambda: _created(name, **settings), images(size))


def _special(name: str, network: Callable[[], nn.Module]) -> Entry:
    return made(name, "timm", network, images(32))


# For those that are told their resolution, and can be told their depth and width.
_SIZED = {"img_size": 64}
_NARROW = {"img_size": 64, "depth": 3, "embed_dim": 48}

ENTRIES = (
    _entry("mobilevit_xxs"),
    _entry("mobilevitv2_050"),
    _special("mixer", lambda: _mlp("mixer")),
    _special("resmlp", lambda: _mlp("resmlp")),
    _special("gmlp", lambda: _mlp("gmlp")),
    _special("convmixer", _convmixer),
    _entry("edgenext_xx_small"),
    _entry("levit_128s", **_SIZED),
    _entry("hrnet_w18_small"),
    _entry("res2net50_14w_8s"),
    _entry("resnest14d"),
    _entry("dla46_c"),
    _entry("ghostnet_050"),
    _entry("repghostnet_050"),
    _entry("repvgg_a0"),
    _entry("repvit_m0_9"),
    _entry("fastvit_t8"),
    _entry("cait_xxs24_224", **_NARROW),
    _entry("xcit_nano_12_p8_224", **_NARROW),
    _entry(
        "deit_tiny_distilled_patch16_224",
        32,
        img_size=32,
        patch_size=8,
        depth=3,
        embed_dim=48,
        num_heads=4,
    ),
    _entry("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    _entry("poolformer_s12"),
    _entry("gcresnext26ts"),
    _entry("seresnet18"),
    _entry("skresnet18"),
    _entry("nf_regnet_b0"),
    _entry("eca_nfnet_l0"),
    _entry("ese_vovnet19b_slim"),
    _entry("selecsls42b"),
    _entry("coat_lite_tiny", **_SIZED),
    _entry("pvt_v2_b0"),
    _entry("twins_svt_small", **_SIZED),
    _entry("davit_tiny"),
    _entry("focalnet_tiny_srf"),
    _entry("visformer_tiny", **_SIZED),
    # Its attention is made for the seven by seven positions that this size leaves.
    _entry("efficientformer_l1", 224),
    _entry("efficientformerv2_s0", **_SIZED),
    _entry("mobilenetv4_conv_small_035"),
    _entry("rexnetr_100"),
    _entry("cs3darknet_focus_s"),
    _entry("hgnet_tiny"),
    _entry("inception_next_atto"),
    _entry("mambaout_femto"),
    _entry("starnet_s050"),
    _entry("sequencer2d_s", **_SIZED),
)
