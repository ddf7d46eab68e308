"""Operations that act on each entry alone, with broadcasting, and new tensors."""

from __future__ import annotations

from torch import Tensor

from autoprune.tracing.rules.registry import rule
from autoprune.tracing.shapes import Labels
from autoprune.tracing.ties import Ids
from autoprune.tracing.trace import Call, Trace

_FRESH_LIMIT = 4096


@rule("copy_", "masked_fill", "native_dropout", "fill", "bernoulli", "where", "lerp", "threshold")
def pointwise(trace: Trace, call: Call) -> None:
    """Tie the operands entry by entry, dimensions aligned at the last one."""
    for out in call.outputs:
        labels: Labels = []
        for axis, size in enumerate(out.shape):
            labels.append(_joined(trace, call.inputs, axis - out.dim(), size) if size > 1 else None)
        trace.put(out, labels)


def _joined(trace: Trace, operands: list[Tensor], axis: int, size: int) -> Ids | None:
    """Tie one dimension over all operands that have it in full."""
    sides = [
        trace.get(each)[axis]
        for each in operands
        if each.dim() >= -axis and each.shape[axis] == size
    ]
    first, *others = sides
    for each in others:
        first = trace.unify(first, each)
    return first


@rule(
    "clone", "_to_copy", "to", "detach", "alias", "lift_fresh", "lift_fresh_copy", "contiguous",
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "_conj",
    "dropout", "positive", "to_dense",
)  # fmt: skip
def carried(trace: Trace, call: Call) -> None:
    """Same shape, same labels."""
    source = call.inputs[0]
    for out in call.outputs:
        trace.alias(out, source)
        trace.put(out, trace.get(source))


@rule(
    "zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_empty",
    "new_full",
)  # fmt: skip
def created(trace: Trace, call: Call) -> None:
    """A tensor made of constants may shrink with what it meets, if its size can follow."""
    axes = range(call.result.dim())
    trace.put(call.result, [created_dimension(trace, call, call.result, axis) for axis in axes])


def created_dimension(trace: Trace, call: Call, out: Tensor, axis: int) -> Ids | None:
    """Return new variables for a dimension of equal entries; a very long one stays."""
    if not 1 < out.shape[axis] <= _FRESH_LIMIT:
        return None
    ids = trace.ties.fresh(out.shape[axis])
    trace.use(call, out, axis, ids)
    return ids
