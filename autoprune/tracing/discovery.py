"""Finding prunable groups: one traced run, ties between entries, groups as plain data.

The network runs once on the example, operation by operation. Every operation ties the
dimensions that it joins (`autoprune.tracing.rules`); what is left free becomes groups.
`autoprune.surgery.proof` then tries every group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from autoprune.errors import ModelError
from autoprune.graph.cost import CostTable
from autoprune.graph.cost_row import CostRow
from autoprune.graph.extent import Extent
from autoprune.graph.group import GroupTable, PrunableGroup, Role, Slice
from autoprune.graph.network import NetworkGraph
from autoprune.tracing.example import Example, described
from autoprune.tracing.families import Families, Slot
from autoprune.tracing.layers import find_layers
from autoprune.tracing.recorder import record
from autoprune.tracing.rules.unknown import PASSES_THROUGH
from autoprune.tracing.shapes import Labels
from autoprune.tracing.sizes import attributes
from autoprune.tracing.ties import Ids
from autoprune.tracing.trace import Trace


def discover(model: nn.Module, example: Example, *, couples: bool = False) -> NetworkGraph:
    """Run `model` on `example` (batch first) and return its groups and costs.

    With `couples`, code that may read a width off a module's input keeps that width equal
    to its own: fewer groups, which work where those found without it broke the network.
    The model is not changed. Raises `ModelError` when it does not run on the example,
    depends on the values of its data, or takes more than a minute.
    """
    try:
        trace, flow = record(model, example, couples=couples)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model does not run on an input of {described(example)}: "
            f"{type(error).__name__}: {error}; check that model and data fit together"
        ) from error
    families = Families(trace.ties, _slots(trace), trace.kinds, trace.cuts)
    groups = sorted(
        [*families.groups(), *_whole(trace, set(families.names))],
        key=lambda group: _first(trace, group),
    )
    table = GroupTable(groups, flow.blocks(model), find_layers(trace, families))
    return NetworkGraph(table, CostTable(_rows(trace, families), table), trace.foldable)


def _names(trace: Trace) -> list[str]:
    """Tensors in the order of their first use; those never used come last."""
    return sorted(trace.tensors, key=lambda name: trace.order.get(name, len(trace.order)))


def _slots(trace: Trace) -> Iterator[Slot]:
    sizes = attributes(trace)
    for name in _names(trace):
        for dim, ids in enumerate(trace.labelled(name)):
            if ids is not None and not trace.ties.is_fixed(ids):
                yield Slot(name, dim, trace.role(ids), ids)
    ranks: Counter[tuple[str, int]] = Counter()
    for each in sizes:
        if not trace.ties.is_fixed(each.ids):
            name, place = f"{each.module}.{each.name}".lstrip("."), each.index
            dim = -1 if place is None else place
            rank = ranks[name, dim]
            ranks[name, dim] += 1
            yield Slot(f"{name}#{rank}" if rank else name, dim, "size", each.ids)
    for passage in trace.passages.values():
        if passage is not None:
            sides: tuple[tuple[Role, Labels], ...]
            sides = (("enter", passage.enter), ("leave", passage.leave))
            for role, labels in sides:
                for axis, ids in enumerate(labels):
                    if ids is not None and not trace.ties.is_fixed(ids):
                        yield Slot(f"{passage.module}:{role}", axis, role, ids)


def _whole(trace: Trace, taken: set[str]) -> Iterator[PrunableGroup]:
    """Yield a group for every layer whose outputs all stay, with the reason."""
    for name in _names(trace):
        layer = name.rpartition(".")[0] or name
        for dim, ids in enumerate(trace.labelled(name)):
            if ids is None or layer in taken or not trace.ties.is_fixed(ids):
                continue
            reason = trace.ties.reason(int(ids[0])) or ""
            makes_units = trace.role(ids) == "out" and name in trace.rows
            if makes_units or reason.startswith(PASSES_THROUGH):
                taken.add(layer)
                # Only the layer is of interest: no units will leave.
                nothing = np.empty((0, 0), dtype=np.int64)
                whole = Slice(name, dim, len(ids), nothing, "out")
                yield PrunableGroup(layer, len(ids), (whole,), reason)


def _first(trace: Trace, group: PrunableGroup) -> int:
    layer = group.name.partition(":")[0]
    return min(
        (place for name, place in trace.order.items() if name.rpartition(".")[0] == layer),
        default=len(trace.order),
    )


def _rows(trace: Trace, families: Families) -> Iterator[CostRow]:
    parameters = {id(each) for each in trace.model.parameters()}
    stored = set(trace.model.state_dict())
    for name in _names(trace):
        tensor = trace.tensors[name]
        constant, extents = _shape(trace, families, tensor.shape, trace.labelled(name))
        yield CostRow(
            name.rpartition(".")[0],
            constant,
            extents,
            macs=trace.rows.get(name, 0) // trace.batch,
            params=int(id(tensor) in parameters),
            item_bytes=tensor.element_size() if name in stored else 0,
        )
    for each in trace.products:
        constant, extents = _shape(trace, families, each.sizes, each.labels)
        yield CostRow(each.module, *_per_sample(constant, extents, trace.batch), macs=1)
    for made in trace.written:
        constant, extents = _shape(trace, families, made.sizes, made.labels)
        shape = _per_sample(constant, extents, trace.batch)
        yield CostRow(made.module, *shape, written_bytes=made.item_bytes)


def _shape(
    trace: Trace, families: Families, sizes: Sequence[int], labels: Sequence[Ids | None]
) -> tuple[int, tuple[Extent, ...]]:
    """Split a shape into its constant part and its lengths that follow kept units."""
    constant, extents = 1, []
    for size, ids in zip(sizes, labels, strict=True):
        if ids is None or trace.ties.is_fixed(ids):
            constant *= size
        else:
            extents.append(families.extent(ids))
    return constant, tuple(extents)


def _per_sample(
    constant: int, extents: tuple[Extent, ...], batch: int
) -> tuple[int, tuple[Extent, ...]]:
    """Take the batch out of a shape: it is a constant, or folded into one dimension."""
    if constant % batch == 0:
        return constant // batch, extents
    for place, each in enumerate(extents):
        if all(count % batch == 0 for count in (each.fixed, *(width for width, _ in each.parts))):
            parts = tuple((width // batch, names) for width, names in each.parts)
            shorter = Extent(each.fixed // batch, parts)
            return constant, (*extents[:place], shorter, *extents[place + 1 :])
    return constant, extents
