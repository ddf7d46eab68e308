"""ATen operations as people write them: `x + y`, `x.mean((2, 3))`, `F.relu(x)`.

    written(node, texts)     # Written("x + y", binds_loosely=True)

Only operations whose Python form calls exactly this operation are written in it; all others
are called as `torch.ops.aten.…`, which needs no more than torch either.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch._ops import OpOverload
from torch.fx import Node

from autoprune.errors import ExportError
from autoprune.exporters._source_code.layers import arguments
from autoprune.exporters._source_code.text import Call, Expression

_ALL = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Written:
    """An expression, and whether it needs parentheses within another one."""

    expression: Expression
    binds_loosely: bool = False


class Texts(Protocol):
    """How arguments are written; `owner` is the module that runs an operation."""

    def value(self, argument: Any) -> str:
        """Return an argument of a call."""

    def atom(self, argument: Any) -> str:
        """Return an argument that something follows, or precedes, without a comma."""

    def owner(self, node: Node) -> nn.Module:
        """Return the innermost module that a node belongs to."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INFIX: Mapping[str, str] = {
    "add.Tensor": "+",
    "sub.Tensor": "-",
    "mul.Tensor": "*",
    "div.Tensor": "/",
    "matmul.default": "@",
    "pow.Tensor_Scalar": "**",
    "eq.Scalar": "==",
    "ne.Scalar": "!=",
    "lt.Scalar": "<",
    "le.Scalar": "<=",
    "gt.Scalar": ">",
    "ge.Scalar": ">=",
    "bitwise_and.Tensor": "&",
    "bitwise_or.Tensor": "|",
}
_PYTHON: Mapping[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.truediv: "/",
}
# Methods whose one list is written as arguments of their own.
_SPREAD = _words("view.default reshape.default permute.default expand.default repeat.default")
_METHODS = _SPREAD | _words(
    """
    abs.default add_.Tensor amax.default amin.default argmax.default bitwise_not.default
    bmm.default chunk.default clamp.default clamp_min.default clone.default contiguous.default
    copy_.default cos.default cumsum.default detach.default div_.Tensor erf.default exp.default
    expand_as.default fill_.Scalar fill_.Tensor flatten.using_ints flip.default gather.default
    index_select.default lift_fresh_copy.default log.default log_softmax.int masked_fill.Scalar
    masked_fill.Tensor masked_fill_.Scalar mean.default mean.dim mul_.Tensor narrow.int neg.default
    new_zeros.default reciprocal.default reshape_as.default roll.default rsqrt.default
    select.int sigmoid.default sin.default softmax.int split.Tensor split_with_sizes.default
    sqrt.default square.default squeeze.default squeeze.dim sub_.Tensor sum.default
    sum.dim_IntList swapaxes.default tanh.default to.dtype transpose.int type_as.default
    unbind.int unflatten.int unsqueeze.default view_as.default zero_.default
    """
)
_TORCH = _words(
    """
    addcmul.default addmm.default arange.default arange.start baddbmm.default cat.default
    div.Tensor_mode full.default full_like.default maximum.default minimum.default ones.default
    ones_like.default outer.default pow.Scalar relu_.default sigmoid_.default stack.default
    where.self zeros.default zeros_like.default
    """
)
_FUNCTIONAL = _words(
    """
    adaptive_avg_pool1d.default adaptive_avg_pool2d.default avg_pool2d.default conv1d.default
    conv2d.default conv3d.default gelu.default hardsigmoid.default hardswish.default
    hardtanh.default leaky_relu.default linear.default max_pool2d.default mish.default
    pad.default relu.default silu.default softplus.default
    """
)
_RENAMED = {"split_with_sizes.default": "split", "lift_fresh_copy.default": "clone"}
_FREE = frozenset({"pin_memory", "layout"})  # given by PyTorch wherever a tensor is made


def written(node: Node, texts: Texts) -> Written:
    """Return an operation in source; raises `ExportError` for what no source can say."""
    if node.target in _PYTHON:
        one, two = map(texts.atom, node.args)
        return Written(f"{one} {_PYTHON[node.target]} {two}", binds_loosely=True)
    if node.target is operator.getitem:
        return Written(f"{texts.atom(node.args[0])}[{texts.value(node.args[1])}]")
    if not isinstance(node.target, OpOverload) or node.target.namespace != "aten":
        raise ExportError(f"no Python source can run {node.target} yet; use --to torch")
    name = str(node.target).removeprefix("aten.")
    if name in _INFIX and not node.kwargs:
        one, two = map(texts.atom, node.args)
        return Written(f"{one} {_INFIX[name]} {two}", binds_loosely=True)
    special = _SPECIAL.get(name)
    found = None if special is None else special(node, texts)
    return Written(found if found is not None else _called(name, node, texts))


def _called(name: str, node: Node, texts: Texts) -> Call:
    packet = _RENAMED.get(name, name.partition(".")[0])
    if name in _METHODS:
        first, *rest = node.args
        receiver = f"{texts.atom(first)}.{packet}("
        if name in _SPREAD and isinstance(rest[0], list | tuple):
            return Call(receiver, tuple(map(texts.value, rest[0])))
        return Call(receiver, _items(node, rest, texts))
    if name in _TORCH:
        return Call(f"torch.{packet}(", _items(node, node.args, texts))
    if name in _FUNCTIONAL:
        return Call(f"F.{packet}(", _items(node, node.args, texts))
    return Call(f"torch.ops.aten.{name}(", _by_mode(node, texts))


def _items(node: Node, values: Sequence[Any], texts: Texts) -> tuple[Expression, ...]:
    """Write the last arguments of a node: flags by name, and without what PyTorch gives itself."""
    names = _names(node)[len(node.args) - len(values) :]
    flags = next((x for x, each in enumerate(values) if isinstance(each, bool)), len(values))
    named = {name: each for name, each in node.kwargs.items() if name not in _FREE}
    named = dict(zip(names[flags:], values[flags:], strict=False)) | named
    return (
        *(_listed(each, texts) for each in values[:flags]),
        *(f"{name}={texts.value(each)}" for name, each in named.items()),
    )


def _listed(value: Any, texts: Texts) -> Expression:
    """Write an argument so that a list of tensors can be broken."""
    if isinstance(value, list) and any(isinstance(each, Node) for each in value):
        return Call("[", tuple(map(texts.value, value)), "]")
    return texts.value(value)


def _by_mode(node: Node, texts: Texts) -> tuple[Expression, ...]:
    """Write arguments where those that say whether a network learns follow its mode."""
    return tuple(
        f"{name}=self.training"
        if name in ("train", "training") and value is False
        else f"{name}={texts.value(value)}"
        for name, value in (*zip(_names(node), node.args, strict=False), *node.kwargs.items())
    )


def _names(node: Node) -> list[str]:
    target: Any = node.target
    return [each.name for each in target._schema.arguments]


def _size(node: Node, texts: Texts) -> Expression:
    return f"{texts.atom(node.args[0])}.shape[{texts.value(node.args[1])}]"


def _dropped(node: Node, texts: Texts) -> Expression:
    value, share, training = node.args
    mode = texts.value(training) if training else "self.training"
    return Call("F.dropout(", (texts.value(value), texts.value(share), mode))


def _normalised(node: Node, texts: Texts) -> Expression:
    given = arguments(node)
    mode = "self.training" if given["training"] is False else "True"
    names = ("input", "running_mean", "running_var", "weight", "bias")
    last = (f"momentum={given['momentum']}", f"eps={given['eps']}")
    return Call("F.batch_norm(", (*(texts.value(given[each]) for each in names), mode, *last))


def _layer_normalised(node: Node, texts: Texts) -> Expression:
    return Call("F.layer_norm(", tuple(map(texts.value, node.args[:5])))


def _group_normalised(node: Node, texts: Texts) -> Expression:
    return Call("F.group_norm(", tuple(map(texts.value, node.args[:5])))


def _looked_up(node: Node, texts: Texts) -> Expression | None:
    rows, indices, *rest = node.args
    return None if rest else Call("F.embedding(", (texts.value(indices), texts.value(rows)))


def _attended(node: Node, texts: Texts) -> Expression:
    """Attend, and drop where the layer does, which leaves no trace in evaluation."""
    given = arguments(node)
    owner = texts.owner(node)
    items = [texts.value(given[each]) for each in ("query", "key", "value")]
    if given["attn_mask"] is not None:
        items.append(f"attn_mask={texts.value(given['attn_mask'])}")
    share = owner.dropout if isinstance(owner, nn.MultiheadAttention) else 0.0
    if given["dropout_p"]:
        items.append(f"dropout_p={given['dropout_p']}")
    elif share:
        items.append(f"dropout_p={share} if self.training else 0.0")
    for name, usual in (("is_causal", False), ("scale", None), ("enable_gqa", False)):
        if given[name] != usual:
            items.append(f"{name}={texts.value(given[name])}")
    return Call("F.scaled_dot_product_attention(", tuple(items))


def _picked(node: Node, texts: Texts) -> Expression | None:
    value, indices = node.args
    given: Any = indices
    where = ", ".join(":" if each is None else texts.value(each) for each in given)
    return f"{texts.atom(value)}[{where}]"


def _selected(node: Node, texts: Texts) -> Expression | None:
    value, dim, index = node.args
    return _indexed(value, dim, texts.value(index), texts)


def _sliced(node: Node, texts: Texts) -> Expression | None:
    given = arguments(node)
    start, end, step = (given[name] for name in ("start", "end", "step"))
    first = "" if start in (None, 0) else texts.value(start)
    last = "" if end is None or end == _ALL else texts.value(end)
    text = f"{first}:{last}" if step == 1 else f"{first}:{last}:{texts.value(step)}"
    return _indexed(given["self"], given["dim"], text, texts)


def _indexed(value: Any, dim: Any, index: str, texts: Texts) -> Expression | None:
    """Write an index of one dimension, counted from the front."""
    if not 0 <= dim <= 3:
        return None
    return f"{texts.atom(value)}[{', '.join([*[':'] * dim, index])}]"


_SPECIAL: Mapping[str, Any] = {
    "sym_size.int": _size,
    "dropout.default": _dropped,
    "batch_norm.default": _normalised,
    "group_norm.default": _group_normalised,
    "index.Tensor": _picked,
    "layer_norm.default": _layer_normalised,
    "embedding.default": _looked_up,
    "scaled_dot_product_attention.default": _attended,
    "select.int": _selected,
    "slice.Tensor": _sliced,
}
