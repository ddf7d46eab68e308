"""What a program need not do: views of everything, sums with the zeros of dropped blocks.

    simplify(program)     # in place

A dropped block adds zeros to its input. Nobody wants to read, or run, that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from autoprune.exporters._source_code.layers import arguments

_ALL = 2**63 - 1
_ATEN = torch.ops.aten


def simplify(program: ExportedProgram) -> None:
    """Take operations out of a program, in place, that change no value."""
    graph = program.graph_module.graph
    # Where values are written into, it matters which of them share memory.
    if any(is_writing(node) for node in graph.nodes):
        return
    for node in list(graph.nodes):
        if _is_whole(node) or _drops_nothing(node):
            node.replace_all_uses_with(node.args[0])
    _leave_out_zeros(graph)


def is_writing(node: Node) -> bool:
    """Say whether a node changes a tensor that it is given."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _is_whole(node: Node) -> bool:
    if node.target is not _ATEN.slice.Tensor:
        return False
    given = arguments(node)
    begins, ends = given["start"] in (None, 0), given["end"] in (None, _ALL)
    return begins and ends and bool(given["step"] == 1)


def _drops_nothing(node: Node) -> bool:
    """Say whether a node drops nothing, and no layer could be told to drop more."""
    if node.target is not _ATEN.dropout.default or arguments(node)["p"] != 0.0:
        return False
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    return not modules or not str(modules[-1][1]).startswith("torch.nn.modules.dropout")


def _leave_out_zeros(graph: Graph) -> None:
    zeros: set[Any] = set()
    for node in list(graph.nodes):
        is_dropped = node.target is _ATEN.dropout.default and node.args[0] in zeros
        if node.target is _ATEN.zeros_like.default or is_dropped:
            zeros.add(node)
        elif node.target is _ATEN.add.Tensor and not node.kwargs:
            one, two = node.args
            other = two if one in zeros else one
            if (one in zeros or two in zeros) and _form(node) == _form(other):
                node.replace_all_uses_with(other)


def _form(node: Any) -> tuple[object, ...]:
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, torch.Tensor):
        return (node,)
    return value.dtype, *map(str, value.shape)  # sizes may be symbols, which must not be compared
