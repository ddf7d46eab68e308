"""Products that sum over a dimension: convolutions and matrix products."""

from __future__ import annotations

import math

from torch import Tensor

from autoprune.tracing.rules.registry import rule
from autoprune.tracing.shapes import Labels, unlabelled
from autoprune.tracing.ties import Ids
from autoprune.tracing.trace import Attribute, Call, Product, Trace


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def convolution(trace: Trace, call: Call) -> None:
    """Inputs of the kernel go with the channels read, outputs with the channels made."""
    source, weight = call["input"], call["weight"]
    transposed, groups = call["transposed"], call["groups"]
    channels, kernel = trace.get(source), trace.get(weight)
    for ids in (*channels[2:], *kernel[2:]):
        trace.freeze(ids, "a convolution runs along it")
    into, out = (kernel[0], kernel[1]) if transposed else (kernel[1], kernel[0])
    trace.mark(into, "in")
    trace.mark(out, "out")
    if groups == 1:
        trace.unify(channels[1], into)
    elif transposed:
        trace.freeze(channels[1], "a transposed convolution in groups reads it")
        trace.freeze_all(weight, "it is the kernel of a transposed convolution in groups")
        out = None
    else:
        _grouped(trace, channels[1], into, out, groups)
    if call.get("bias") is not None:
        bias = trace.get(call["bias"])[0]
        trace.mark(bias, "out")
        out = trace.unify(out, bias)
    trace.convolved(call.result)
    trace.put(call.result, [channels[0], out, *unlabelled(call.result.dim() - 2)])
    # A transposed convolution multiplies once per tap at each position of its input.
    counted = source if transposed else call.result
    positions = math.prod(counted.shape) // counted.shape[1]
    if trace.parameter(weight) is not None:
        trace.multiply(weight, positions)
        trace.writes(call.result)
    else:
        sizes = (positions, *weight.shape)
        trace.products.append(Product(trace.path[-1], sizes, (None, *trace.get(weight))))


def _grouped(
    trace: Trace, channels: Ids | None, into: Ids | None, out: Ids | None, groups: int
) -> None:
    """Tie blocks of channels to blocks of filters; both sides split into block and place."""
    blocks, inner = (None, None) if channels is None else trace.ties.split(channels, groups)
    made, _ = (None, None) if out is None else trace.ties.split(out, groups)
    blocks = trace.unify(blocks, made)
    if into is not None or inner is not None:
        trace.unify(inner, into)
    if blocks is not None:
        if channels is not None and len(channels) > groups:
            trace.kinds.append((blocks, "blocks"))
        trace.attributes.append(Attribute(trace.path[-1], "groups", None, blocks))


@rule("mm", "bmm", "addmm", "baddbmm", "_addmm_activation")
def matrix_product(trace: Trace, call: Call) -> None:
    """The inner dimension is summed over; batches of matrices go together."""
    left, right = (call.get("mat1"), call.get("mat2"))
    if left is None:
        left = call.get("batch1") if call.get("batch1") is not None else call["self"]
        right = call.get("batch2") if call.get("batch2") is not None else call["mat2"]
    one, other = trace.get(left), trace.get(right)
    if trace.parameter(right) is not None:
        trace.mark(other[-2], "in")
        trace.mark(other[-1], "out")
    elif trace.parameter(left) is not None:
        trace.mark(one[-1], "in")
        trace.mark(one[-2], "out")
    inner = trace.unify(one[-1], other[-2])
    labels: Labels = [one[-2], other[-1]]
    if left.dim() == 3:
        stacked = trace.unify(one[0], other[0])
        labels.insert(0, stacked)
        if stacked is not None:
            trace.kinds.append((stacked, "heads"))
    if "mm" in call.name and "add" in call.name:
        labels = _with_bias(trace, call["self"], labels)
    trace.put(call.result, labels)
    _count(trace, left, right, [*labels, inner])
    if trace.parameter(left) is not None or trace.parameter(right) is not None:
        trace.writes(call.result)


@rule("mv", "addmv", "dot")
def vector_product(trace: Trace, call: Call) -> None:
    """A matrix times a vector."""
    left = call.get("mat") if call.get("mat") is not None else call["self"]
    right = call.get("vec") if call.get("vec") is not None else call["tensor"]
    one, other = trace.get(left), trace.get(right)
    trace.mark(one[-1], "in")
    trace.mark(other[0], "in")
    trace.unify(one[-1], other[0])
    labels = one[:-1]
    if call.name == "addmv":
        labels = _with_bias(trace, call["self"], labels)
    trace.put(call.result, labels)


def _with_bias(trace: Trace, bias: Tensor, labels: Labels) -> Labels:
    """Tie a term that is added, dimensions aligned at the last one."""
    own = trace.get(bias)
    if trace.parameter(bias) is not None:
        trace.mark(own[-1], "out")
    padded: Labels = unlabelled(len(labels) - len(own)) + own
    sizes = (1,) * (len(labels) - len(own)) + tuple(bias.shape)
    return [
        ids if size == 1 else trace.unify(ids, term)
        for ids, term, size in zip(labels, padded, sizes, strict=True)
    ]


def _count(trace: Trace, left: Tensor, right: Tensor, labels: list[Ids | None]) -> None:
    """Note the multiply-accumulates, at the parameter if one takes part."""
    sizes = (*left.shape[:-1], right.shape[-1], left.shape[-1])
    if trace.parameter(right) is not None:
        trace.multiply(right, math.prod(left.shape[:-1]))
    elif trace.parameter(left) is not None:
        trace.multiply(left, right.shape[-1] * (left.shape[0] if left.dim() == 3 else 1))
    else:
        trace.products.append(Product(trace.path[-1], sizes, tuple(labels)))
