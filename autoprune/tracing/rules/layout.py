"""Operations that move entries without computing: views, permutations, repeats, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.tracing.rules.elementwise import created_dimension
from autoprune.tracing.rules.registry import rule
from autoprune.tracing.rules.unknown import unknown
from autoprune.tracing.shapes import Labels, reshaped, unlabelled
from autoprune.tracing.ties import Ids
from autoprune.tracing.trace import Call, Trace, whole


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten", "view_copy")
def view(trace: Trace, call: Call) -> None:
    """Dimensions are merged to products and split into factors."""
    source, out = call["self"], call.result
    labels = reshaped(trace.ties, trace.get(source), source.shape, out.shape)
    for axis, ids in enumerate(labels):
        trace.use(call, out, axis, ids)
    if source.dim() != out.dim():
        for ids in (*trace.get(source), *labels):
            trace.couple(ids)
    trace.alias(out, source)
    trace.put(out, labels)


@rule("as_strided_")
def strided(trace: Trace, call: Call) -> None:
    """A result is laid out anew (channels last): same entries, same labels."""
    source, out = call["self"], call.result
    if source.shape != out.shape:
        unknown(trace, call)
        return
    trace.alias(out, source)
    trace.put(out, trace.get(source))


@rule("squeeze", "unsqueeze", "unsqueeze_copy", "squeeze_copy")
def squeeze(trace: Trace, call: Call) -> None:
    """Dimensions of one entry come and go; they carry no labels."""
    source, out = call["self"], call.result
    trace.alias(out, source)
    trace.put(out, reshaped(trace.ties, trace.get(source), source.shape, out.shape))


@rule("permute", "t", "transpose", "numpy_T", "permute_copy", "transpose_copy")
def permute(trace: Trace, call: Call) -> None:
    """Dimensions change places."""
    source = call["self"]
    order = list(range(source.dim()))
    if call.name.startswith("permute"):
        order = [axis % source.dim() for axis in call["dims"]]
    elif call.name.startswith("transpose"):
        one, other = call["dim0"] % source.dim(), call["dim1"] % source.dim()
        order[one], order[other] = order[other], order[one]
    else:
        order.reverse()
    labels = trace.get(source)
    trace.alias(call.result, source)
    trace.put(call.result, [labels[axis] for axis in order])


@rule("expand", "expand_copy")
def expand(trace: Trace, call: Call) -> None:
    """New dimensions are as long as the code says; stretched ones as what they meet."""
    source, out = call["self"], call.result
    missing = out.dim() - source.dim()
    labels = [*unlabelled(missing), *trace.get(source)]
    for axis, size in enumerate(source.shape, start=missing):
        if size != out.shape[axis]:
            labels[axis] = created_dimension(trace, call, out, axis)
    trace.alias(out, source)
    trace.put(out, labels)


@rule("repeat")
def repeat(trace: Trace, call: Call) -> None:
    """Whole dimensions follow each other several times."""
    source, out = call["self"], call.result
    labels: Labels = unlabelled(out.dim() - source.dim()) + trace.get(source)
    trace.put(
        out,
        [
            None if ids is None else np.tile(ids, size // len(ids))
            for ids, size in zip(labels, out.shape, strict=True)
        ],
    )


@rule("cat")
def cat(trace: Trace, call: Call) -> None:
    """Labels follow each other along one dimension and are tied along the others."""
    parts = [each for each in call["tensors"] if each.numel() or each.dim() > 1]
    axis = (call.get("dim") or 0) % call.result.dim()
    columns = list(zip(*(trace.get(each) for each in parts), strict=True))
    labels = [_tied(trace, column) for column in (*columns[:axis], *columns[axis + 1 :])]
    joined: Ids | None = None
    if any(ids is not None for ids in columns[axis]):
        sizes = [each.shape[axis] for each in parts]
        joined = np.concatenate(
            [whole(ids, size) for ids, size in zip(columns[axis], sizes, strict=True)]
        )
    trace.put(call.result, [*labels[:axis], joined, *labels[axis:]])


@rule("stack")
def stack(trace: Trace, call: Call) -> None:
    """Tensors are tied entry by entry; the new dimension is as long as the code says."""
    columns = list(zip(*(trace.get(each) for each in call["tensors"]), strict=True))
    axis = (call.get("dim") or 0) % call.result.dim()
    labels = [_tied(trace, column) for column in columns]
    trace.put(call.result, [*labels[:axis], None, *labels[axis:]])


def _tied(trace: Trace, column: Sequence[Ids | None]) -> Ids | None:
    first, *others = column
    for each in others:
        first = trace.unify(first, each)
    return first


@rule("constant_pad_nd")
def pad(trace: Trace, call: Call) -> None:
    """Entries are added before and after: new variables, which an addition may tie."""
    labels = trace.get(call["self"])
    amounts = call["pad"]
    for step in range(len(amounts) // 2):
        axis = len(labels) - 1 - step
        before, after = amounts[2 * step], amounts[2 * step + 1]
        ids = labels[axis]
        if ids is None or not (before or after):
            continue
        if min(before, after) < 0:
            trace.freeze(ids, "it is cropped")
            labels[axis] = None
            continue
        ends = trace.ties.fresh(before), trace.ties.fresh(after)
        for end, part in zip(ends, ("before", "after"), strict=True):
            if len(end):
                trace.use(call, call.result, axis, end, len(end), part)
        labels[axis] = np.concatenate([ends[0], ids, ends[1]])
    trace.put(call.result, labels)


@rule("diagonal")
def diagonal(trace: Trace, call: Call) -> None:
    """Two dimensions become one, which stays whole like both of them."""
    source = call["self"]
    labels = trace.get(source)
    pair = (call.get("dim1") or 0, 1 if call.get("dim2") is None else call["dim2"])
    axes = {axis % source.dim() for axis in pair}
    for axis in axes:
        trace.freeze(labels[axis], "its diagonal is taken")
    rest = [ids for axis, ids in enumerate(labels) if axis not in axes]
    trace.put(call.result, [*rest, None])


@rule("roll", "flip", "tril", "triu")
def moved(trace: Trace, call: Call) -> None:
    """Entries change places along dimensions that therefore stay whole."""
    source = call["self"]
    axes = call.get("dims") or ([] if call.name == "roll" else [-1, -2])
    labels = trace.get(source)
    for axis in range(source.dim()) if call.name == "roll" and not axes else axes:
        trace.freeze(labels[axis], f"it is moved by aten.{call.name}")
        labels[axis] = None
    trace.put(call.result, labels)
