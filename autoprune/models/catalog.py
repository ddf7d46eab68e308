"""The networks that a job can name, and how the user's own are imported."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError, suggestion
from autoprune.job.spec import ModelSpec
from autoprune.models.checkpoint import load_checkpoint
from autoprune.models.cifar_resnet import DEPTHS, CifarResNet
from autoprune.models.digits_cnn import IMAGE_SIZE, DigitsCnn
from autoprune.models.mlp import Mlp
from autoprune.plugins import import_here
from autoprune.tracing.example import logits_of
from autoprune.vision import ensure_torchvision

_TORCHVISION = "torchvision/"
_INIT_SEED = 0


class _Builder(Protocol):
    def __call__(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module: ...


def build_model(spec: ModelSpec, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """Return the network of a job: eval mode, CPU, float32, with its checkpoint loaded.

    `num_classes` is that of the data (`spec.num_classes` overrides it) and `input_shape`
    that of one sample, channels first. Weights that no checkpoint gives are initialised
    from a fixed seed; the global random state stays as it was.

    Raises `ModelError` for an unknown name, a model that cannot be imported or does not
    take such inputs, and a checkpoint that is missing, unsafe or does not fit.
    """
    classes = spec.num_classes or num_classes
    if classes < num_classes:
        raise ModelError(
            f"model.num_classes is {classes}, but the data has {num_classes} classes; give at "
            "least as many, or leave it out"
        )
    # fork_rng keeps the CPU state; torch.manual_seed would also touch the GPU's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_INIT_SEED)
        if spec.import_ is not None:
            model = _imported(spec.import_)
            # Networks that return several values are judged, and exported, by their logits.
            model.register_forward_hook(_logits)
        else:
            model = _builder(spec.title)(classes, input_shape)
    if spec.checkpoint is not None:
        load_checkpoint(model, spec.checkpoint)
    return model.to("cpu", torch.float32).eval()


def model_names() -> list[str]:
    """Return every name that `build_model` knows, sorted; imports torchvision."""
    return sorted([*_BUILDERS, *(f"{_TORCHVISION}{name}" for name in _torchvision_names())])


def is_known(name: str) -> bool:
    """Say whether `build_model` knows `name`; imports torchvision only for its names."""
    is_torchvision = name.startswith(_TORCHVISION)
    return name in _BUILDERS or (
        is_torchvision and name.removeprefix(_TORCHVISION) in _torchvision_names()
    )


def _builder(name: str) -> _Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    plain = name.removeprefix(_TORCHVISION)
    is_torchvisions = plain in _torchvision_names()
    if is_torchvisions and plain != name:
        return partial(_torchvision, plain)
    # Only the prefix is missing: by spelling alone, resnet18 is nearer to cifar_resnet110.
    near = f"did you mean {_TORCHVISION + name!r}?" if is_torchvisions else ""
    raise ModelError(
        f"unknown model {name!r} (for a network of your own, give "
        f'{{import: "package.module:function"}}); {near or suggestion(name, model_names())}'
    )


def _cifar_resnet(depth: int, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    if len(input_shape) != 3:
        raise ModelError(f"cifar_resnet{depth} reads {_images_needed(input_shape)}")
    return CifarResNet(depth, num_classes, in_channels=input_shape[0])


def _digits_cnn(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    if len(input_shape) != 3 or input_shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        size = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
        raise ModelError(f"digits_cnn reads {_images_needed(input_shape)} and {size} pixels")
    return DigitsCnn(num_classes, in_channels=input_shape[0])


def _mlp(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    if len(input_shape) != 1:
        raise ModelError(f"mlp reads rows of shape (features,), but the data has {input_shape}")
    return Mlp(input_shape[0], num_classes)


def _torchvision(name: str, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ModelError(
            f"{_TORCHVISION}{name} reads {_images_needed(input_shape)}, with 3 channels"
        )
    ensure_torchvision()
    from torchvision.models import get_model

    # Otherwise these two warn that this default is about to become theirs.
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **quick)
    return model


def _torchvision_names() -> list[str]:
    ensure_torchvision()
    from torchvision import models

    # Only this module: its submodules hold detection, segmentation and video.
    names: list[str] = models.list_models(module=models)
    return names


def _logits(_: nn.Module, __: object, outputs: object) -> Tensor:
    return logits_of(outputs)


def _imported(target: str) -> nn.Module:
    """Call the user's `package.module:function` without arguments."""
    module_name, _, function_name = target.partition(":")
    try:
        module: Any = import_here(module_name)
    except Exception as error:  # whatever the user's module raises
        raise ModelError(
            f"model {target!r}: cannot import {module_name!r} ({type(error).__name__}: {error}); "
            f"it must be importable from {os.getcwd()} or installed"
        ) from error
    make = getattr(module, function_name, None)
    if not callable(make):
        known = suggestion(function_name, (each for each in vars(module) if each[0] != "_"))
        raise ModelError(f"model {target!r}: {module.__file__} has no such function; {known}")
    try:
        model = make()
    except Exception as error:  # whatever the user's function raises
        raise ModelError(
            f"model {target!r}: calling {function_name}() without arguments failed "
            f"({type(error).__name__}: {error})"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {target!r}: {function_name}() must return a torch.nn.Module, it returned "
            f"a {type(model).__name__}"
        )
    return model


def _images_needed(given: tuple[int, ...]) -> str:
    return f"images of shape (channels, height, width), but the data has shape {given}"


_BUILDERS: dict[str, _Builder] = {
    "digits_cnn": _digits_cnn,
    "mlp": _mlp,
    **{f"cifar_resnet{depth}": partial(_cifar_resnet, depth) for depth in DEPTHS},
}
