"""Layers of `torch.nn` in source: how they are constructed, and which nodes are calls of them.

    constructor(nn.Linear(3, 4))              # Call("nn.Linear(", ("3", "4"))
    read_by(layer, node, tensor_of)           # the node that it is called with

A layer has these forms only where what is constructed, or called, is proven to be the same.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from autoprune.exporters._source_code.text import Call, literal

TensorOf = Callable[[Any], Tensor | None]
"""The tensor of the network that a node stands for, None for other nodes."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
WEIGHTED = (*_CONVOLUTIONS, nn.Linear, nn.Embedding, *RECURRENT)
"""Layers whose kernels take most of the work."""

# Of layers without tensors: the operation, and its arguments by the layer's attributes.
_FUNCTIONS: Mapping[type[nn.Module], tuple[str, Mapping[str, str]]] = {
    nn.ReLU: ("relu.default", {}),
    nn.GELU: ("gelu.default", {"approximate": "approximate"}),
    nn.SiLU: ("silu.default", {}),
    nn.Mish: ("mish.default", {}),
    nn.Sigmoid: ("sigmoid.default", {}),
    nn.Tanh: ("tanh.default", {}),
    nn.Hardswish: ("hardswish.default", {}),
    nn.Hardsigmoid: ("hardsigmoid.default", {}),
    nn.LeakyReLU: ("leaky_relu.default", {"negative_slope": "negative_slope"}),
    nn.ReLU6: ("hardtanh.default", {"min_val": "min_val", "max_val": "max_val"}),
    nn.Softmax: ("softmax.int", {"dim": "dim"}),
    nn.Dropout: ("dropout.default", {"p": "p"}),
    nn.Dropout2d: ("feature_dropout.default", {"p": "p"}),
    nn.Flatten: ("flatten.using_ints", {"start_dim": "start_dim", "end_dim": "end_dim"}),
    nn.AdaptiveAvgPool1d: ("adaptive_avg_pool1d.default", {"output_size": "output_size"}),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d.default", {"output_size": "output_size"}),
    nn.MaxPool2d: (
        "max_pool2d.default",
        {
            "kernel_size": "kernel_size",
            "stride": "stride",
            "padding": "padding",
            "dilation": "dilation",
            "ceil_mode": "ceil_mode",
        },
    ),
    nn.AvgPool2d: (
        "avg_pool2d.default",
        {
            "kernel_size": "kernel_size",
            "stride": "stride",
            "padding": "padding",
            "ceil_mode": "ceil_mode",
            "count_include_pad": "count_include_pad",
            "divisor_override": "divisor_override",
        },
    ),
}
_OTHERS = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU, nn.Identity)
_KINDS = frozenset({*_FUNCTIONS, *_CONVOLUTIONS, *_NORMS, *_OTHERS, *RECURRENT})
# Second arguments of constructors that are clear without their names.
_POSITIONAL = frozenset({"out_channels", "out_features", "hidden_size", "embedding_dim"})
# Flags for one machine's libraries; and what follows the mode of the layer, which is eval.
_INDIFFERENT = frozenset({"cudnn_enable", "cudnn_enabled"})
_RECURRENT_OPTIONS: Mapping[str, Any] = {
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
    "nonlinearity": "tanh",
}


def constructor(layer: nn.Module) -> Call | None:
    """Return what constructs a layer with the same tensors, None if that is no layer of torch's."""
    kind = _kind(layer)
    if kind not in _KINDS or layer._modules:
        return None
    given = dict(_arguments(kind, layer))
    try:
        items = tuple(_item(kind, name, value) for name, value in given.items())
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            made: nn.Module = kind(**given)
    except Exception:  # attributes that somebody has changed are no arguments any more
        return None
    is_same = _forms(made) == _forms(layer) and made.extra_repr() == layer.extra_repr()
    return Call(f"nn.{kind.__name__}(", items) if is_same else None


def read_by(layer: nn.Module, node: Node, tensor_of: TensorOf) -> Node | None:
    """Return what a layer is called with, None where `node` is no call of it.

    A recurrent layer that begins at zeros reads them by itself.
    """
    expected = _expected(layer)
    if expected is None or str(node.target) != expected[0]:
        return None
    given = arguments(node)
    read = given.pop("indices" if _kind(layer) is nn.Embedding else next(iter(given)))
    wanted: dict[str, Any] = {"train": False, "training": False, **expected[1]}
    for name, value in given.items():
        if name == "hx":
            if not all(map(_is_zeros, value if isinstance(value, list) else [value])):
                return None
        elif name not in _INDIFFERENT and not _is_same(
            value, wanted.get(name, _default(node, name)), tensor_of
        ):
            return None
    return read if isinstance(read, Node) else None


def arguments(node: Node) -> dict[str, Any]:
    """Return all arguments of an operation by their names, defaults included, in its order."""
    target: Any = node.target
    schema = target._schema.arguments
    given = dict(zip((each.name for each in schema), node.args, strict=False))
    return {
        each.name: given.get(each.name, node.kwargs.get(each.name, each.default_value))
        for each in schema
    }


def _item(kind: type[nn.Module], name: str, value: Any) -> str:
    is_first = name == next(iter(_parameters(kind))) and not isinstance(value, bool)
    is_clear = name in _POSITIONAL or (is_first and name != "kernel_size")
    return literal(value) if is_clear else f"{name}={literal(value)}"


def _kind(layer: nn.Module) -> type[nn.Module]:
    kind = type(layer)
    return nn.Linear if kind is NonDynamicallyQuantizableLinear else kind


def _forms(layer: nn.Module) -> dict[str, tuple[Any, ...]]:
    tensors = (*layer.named_parameters(), *layer.named_buffers())
    return {name: (each.shape, each.dtype, name in layer._buffers) for name, each in tensors}


def _arguments(kind: type[nn.Module], layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a layer's constructor that differ from their defaults."""
    for name, default in _parameters(kind).items():
        value = getattr(layer, name, None)
        if name == "bias" and not isinstance(value, bool):
            value = value is not None
            if not getattr(layer, "affine", True):
                continue
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and name == "stride":
            default = layer.kernel_size
        usual = (default,) * len(value) if isinstance(value, tuple) else default
        if value not in (default, usual):
            yield name, value


def _parameters(kind: type[nn.Module]) -> dict[str, Any]:
    """Return the arguments of a layer's constructor and their defaults."""
    if kind in RECURRENT:
        empty = inspect.Parameter.empty
        options = {
            name: each
            for name, each in _RECURRENT_OPTIONS.items()
            if (name, kind) not in (("proj_size", nn.GRU), ("proj_size", nn.RNN))
            and (name != "nonlinearity" or kind is nn.RNN)
        }
        return {"input_size": empty, "hidden_size": empty, **options}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: each.default
        for name, each in inspect.signature(kind).parameters.items()
        if each.kind in named and name not in ("device", "dtype") and name[0] != "_"
    }


def _expected(layer: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the operation that a call of a layer is, and what it is given but its inputs."""
    kind = _kind(layer)
    if kind in _FUNCTIONS:
        name, attributes = _FUNCTIONS[kind]
        packet, _, overload = name.partition(".")
        in_place = "_" if getattr(layer, "inplace", False) else ""
        values = {key: getattr(layer, each) for key, each in attributes.items()}
        return f"aten.{packet}{in_place}.{overload}", values
    if kind in _CONVOLUTIONS:
        overload = "padding" if isinstance(layer.padding, str) else "default"
        names = ("weight", "bias", "stride", "padding", "dilation", "groups")
        name = f"aten.conv{layer.weight.dim() - 2}d.{overload}"
        return name, {each: getattr(layer, each) for each in names}
    if kind in RECURRENT:
        return _recurrent(layer)
    return _weighted(layer, kind)


def _weighted(layer: Any, kind: type[nn.Module]) -> tuple[str, dict[str, Any]] | None:
    """Return the same for linear layers, embeddings and norms."""
    of = {"weight": getattr(layer, "weight", None), "bias": getattr(layer, "bias", None)}
    if kind in _NORMS:
        statistics = {name: getattr(layer, name) for name in ("running_mean", "running_var")}
        # Without statistics of its own a norm takes those of the batch in every mode.
        training = layer.running_mean is None
        options = {"training": training, "momentum": layer.momentum or 0.0, "eps": layer.eps}
        return "aten.batch_norm.default", of | statistics | options
    if kind is nn.Linear:
        return "aten.linear.default", of
    if kind is nn.LayerNorm or kind is nn.RMSNorm:
        name = "aten.layer_norm.default" if kind is nn.LayerNorm else "aten.rms_norm.default"
        return name, {**of, "normalized_shape": layer.normalized_shape, "eps": layer.eps}
    if kind is nn.GroupNorm:
        options = {"num_groups": layer.num_groups, "eps": layer.eps}
        return "aten.group_norm.default", of | options
    if kind is nn.PReLU:
        return "aten.prelu.default", of
    if kind is nn.Embedding and layer.max_norm is None:
        row = -1 if layer.padding_idx is None else layer.padding_idx
        options = {"padding_idx": row, "scale_grad_by_freq": layer.scale_grad_by_freq}
        return "aten.embedding.default", {**of, **options, "sparse": layer.sparse}
    return None


def _recurrent(layer: Any) -> tuple[str, dict[str, Any]]:
    kind = "lstm" if isinstance(layer, nn.LSTM) else "gru"
    if isinstance(layer, nn.RNN):
        kind = f"rnn_{layer.nonlinearity}"
    names = ("num_layers", "dropout", "bidirectional", "batch_first")
    options = {name: getattr(layer, name) for name in names}
    weights = layer._flat_weights
    return f"aten.{kind}.input", {**options, "params": weights, "has_biases": layer.bias}


def _default(node: Node, name: str) -> Any:
    target: Any = node.target
    return next(each.default_value for each in target._schema.arguments if each.name == name)


def _is_zeros(node: Any) -> bool:
    return isinstance(node, Node) and str(node.target) == "aten.zeros.default"


def _is_same(given: Any, wanted: Any, tensor_of: TensorOf) -> bool:
    """Say whether an argument is what a layer would give; one number stands for one each."""
    if isinstance(given, Node):
        found = tensor_of(given)
        return found is not None and found is wanted
    if isinstance(wanted, Tensor):
        return False
    if isinstance(given, list | tuple) or isinstance(wanted, list | tuple):
        pair = [list(x) if isinstance(x, list | tuple) else [x] for x in (given, wanted)]
        most = max(map(len, pair))
        one, two = (each * most if len(each) == 1 else each for each in pair)
        return len(one) == len(two) and all(map(lambda a, b: _is_same(a, b, tensor_of), one, two))
    return bool(isinstance(given, bool) == isinstance(wanted, bool) and given == wanted)
