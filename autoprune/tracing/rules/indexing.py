"""Operations that pick entries: slices, splits, look-ups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoprune.tracing.rules.registry import rule
from autoprune.tracing.shapes import unlabelled
from autoprune.tracing.trace import Call, Trace


@rule("select", "unbind", "select_copy", "unbind_copy")
def select(trace: Trace, call: Call) -> None:
    """A numbered entry must keep its number: the dimension stays whole."""
    source = call["self"]
    axis = (call.get("dim") or 0) % source.dim()
    labels = trace.get(source)
    trace.freeze(labels[axis], "one entry is picked by its number")
    for out in call.outputs:
        trace.alias(out, source)
        trace.put(out, [*labels[:axis], *labels[axis + 1 :]])


@rule("slice", "slice_copy", "narrow")
def cut(trace: Trace, call: Call) -> None:
    """A range of a dimension; where the code gives its ends, they must follow the kept ones."""
    source, out = call["self"], call.result
    axis, size = (call.get("dim") or 0) % source.dim(), source.shape[(call.get("dim") or 0)]
    labels = trace.get(source)
    ids = labels[axis]
    if ids is not None and (call.get("step") or 1) != 1:
        trace.freeze(ids, "every other entry is taken")
        labels[axis] = None
    elif ids is not None and out.shape[axis] != size:
        start = _bound(call.get("start"), 0, size)
        end = start + out.shape[axis]
        labels[axis] = ids[start:end]
        trace.cut(ids[:start])
        trace.cut(ids[:end])
        trace.use(call, out, axis, labels[axis])
        if start:
            trace.use(call, out, axis, ids[:start], start, "start")
        if start and end < size:
            trace.use(call, out, axis, ids[:end], end, "end")
    trace.put(out, labels)


def _bound(value: int | None, default: int, size: int) -> int:
    if value is None:
        return default
    return min(max(value + size if value < 0 else value, 0), size)


@rule("split", "split_with_sizes", "chunk", "split_copy", "split_with_sizes_copy", "unsafe_split")
def split(trace: Trace, call: Call) -> None:
    """Parts of a dimension; parts of equal length shrink together."""
    source = call["self"]
    axis = (call.get("dim") or 0) % source.dim()
    labels = trace.get(source)
    ids = labels[axis]
    sizes = [each.shape[axis] for each in call.outputs]
    parts = unlabelled(len(sizes))
    if ids is not None:
        trace.use(call, source, axis, ids, part="whole")
        ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
        parts = [ids[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        for each in parts[1:]:
            if each is not None and parts[0] is not None and len(each) == len(parts[0]):
                trace.ties.tie(parts[0], each)
        for out, part in zip(call.outputs, parts, strict=True):
            trace.use(call, out, axis, part)
            if part is not None and len(set(sizes)) > 1:
                trace.cut(part)
    for out, part in zip(call.outputs, parts, strict=True):
        trace.put(out, [*labels[:axis], part, *labels[axis + 1 :]])


@rule("embedding")
def embedding(trace: Trace, call: Call) -> None:
    """Rows of a table: the vocabulary stays, the features are units."""
    rows, features = trace.get(call["weight"])
    trace.freeze(rows, "it is the vocabulary of an embedding")
    trace.mark(features, "out")
    trace.put(call.result, [*unlabelled(call.result.dim() - 1), features])


@rule("index", "_unsafe_index", "index_select")
def index(trace: Trace, call: Call) -> None:
    """Numbered entries: the dimensions that are indexed stay whole."""
    source = call["self"]
    labels = trace.get(source)
    if call.name == "index_select":
        trace.freeze(labels[call["dim"]], "its entries are picked by number")
        labels[call["dim"]] = None
        trace.put(call.result, labels)
        return
    axes = _indexed(call["indices"])
    for axis in axes:
        trace.freeze(labels[axis], "its entries are picked by number")
    rest = [ids for axis, ids in enumerate(labels) if axis not in axes]
    width = call.result.dim() - len(rest)
    # Scattered index tensors move to the front, as in NumPy.
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    place = axes[0] if together else 0
    trace.put(call.result, [*rest[:place], *unlabelled(width), *rest[place:]])


def _indexed(picks: Sequence[Tensor | None]) -> list[int]:
    """Return the dimensions that are indexed; a mask stands for all of its own."""
    axes: list[int] = []
    axis = 0
    for each in picks:
        width = each.dim() if each is not None and each.dtype in (torch.bool, torch.uint8) else 1
        if each is not None:
            axes += range(axis, axis + width)
        axis += width
    return axes


@rule("_pack_padded_sequence")
def pack(trace: Trace, call: Call) -> None:
    """Sequences of different lengths lie behind each other; their features are untouched."""
    packed, sizes = call.outputs
    trace.put(packed, [None, *trace.get(call["input"])[2:]])
    trace.put(sizes, [None])


@rule("_pad_packed_sequence")
def unpack(trace: Trace, call: Call) -> None:
    """The way back from `pack`."""
    padded, lengths = call.outputs
    trace.put(padded, [None, None, *trace.get(call["data"])[1:]])
    trace.put(lengths, [None])
