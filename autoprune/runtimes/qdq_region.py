"""Which tensors of an ONNX graph are handed on as whole numbers, beside what layers read."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from autoprune.runtimes.onnx_graph import OnnxGraph
from autoprune.runtimes.qdq_pair import Pair

_MOVES = ("MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Pad", "Squeeze", "Unsqueeze")
"""Operations that leave whole numbers as they are."""
_CLIPS = ("Relu", "Clip")
"""Operations that rounding does as well, where they follow what writes whole numbers."""
_JOINS = ("Add", "Mul", "Concat")
_COMPUTES = (*_CLIPS, *_JOINS, "AveragePool", "GlobalAveragePool", "Sigmoid")
"""Operations that runtimes do in whole numbers if all that they read are some."""


class Region:
    """What is rounded once for all its readers: the tensors in `whole`, in their order.

    `reads` says how layers round what they read, by the first output of their node; those in
    `computed` multiply whole numbers. `sources` are tensors whose numbers others only hold in
    other places.
    """

    def __init__(self, graph: OnnxGraph, reads: Mapping[str, Pair], computed: Set[str]) -> None:
        self._graph = graph
        self._reads = reads
        self._computed = computed
        self.whole: list[str] = []
        self.sources: dict[str, str] = {}
        # Written in whole numbers as well, but clipped at once by the only one that reads it.
        self._clipped: set[str] = set()
        self._seen: set[str] = set()
        for name in graph.inputs:
            self._place(name, self._is_asked_for(name))
        for node in graph.nodes:
            name = node.output[0]
            self._place(name, self._is_written(node) or self._is_asked_for(name))
            if node.op_type in _MOVES and node.input[0] in self.whole:
                self.sources[name] = node.input[0]

    def wanted(self, name: str) -> list[Pair]:
        """Return how layers round a tensor, also where it is moved first; most bits first."""
        found = []
        for node in self._graph.readers(name):
            if node.op_type in _MOVES:
                found += self.wanted(node.output[0])
            elif node.output[0] in self._reads and node.input[0] == name:
                found.append(self._reads[node.output[0]])
        return sorted(found, key=lambda each: -each.bits)

    def is_alone(self, name: str) -> bool:
        """Say whether all readers are layers that round alike, also where it is moved first."""
        readers, wanted = self._graph.readers(name), self.wanted(name)
        return len(set(wanted)) == 1 and all(
            self.is_alone(node.output[0])
            if node.op_type in _MOVES
            else node.output[0] in self._reads
            for node in readers
        )

    def _place(self, name: str, is_whole: bool) -> None:
        self._seen.add(name)
        if is_whole and name not in self._graph.results:
            if self._clip_after(name) is None:
                self.whole.append(name)
            else:
                self._clipped.add(name)

    def _is_written(self, node: Any) -> bool:
        """Say whether a node writes whole numbers."""
        name, kind = node.output[0], node.op_type
        clipped = self._clip_after(name) or name
        if name in self._computed:
            return kind == "Conv" or bool(self.wanted(clipped))
        if kind in _MOVES:
            return node.input[0] in self.whole
        if kind in _CLIPS and node.input[0] in self._clipped:
            return True
        return (
            kind in _COMPUTES
            and all(each in self.whole for each in _operands(node))
            and self._is_useful(clipped)
        )

    def _is_asked_for(self, name: str) -> bool:
        """Say whether floats are rounded for a computation, since a layer rounds them anyway."""
        return any(each.bits == 8 for each in self.wanted(name)) and any(
            self._goes_on(node, name) for node in self._graph.readers(name)
        )

    def _is_useful(self, name: str) -> bool:
        """Say whether a reader goes on in whole numbers."""
        return bool(self.wanted(name)) or any(
            self._is_useful(node.output[0]) if node.op_type in _MOVES else self._goes_on(node, name)
            for node in self._graph.readers(name)
        )

    def _goes_on(self, node: Any, name: str) -> bool:
        """Say whether a node computes in whole numbers if `name` holds some."""
        return node.op_type in _COMPUTES and all(
            each == name or self._will_be_whole(each) for each in _operands(node)
        )

    def _will_be_whole(self, name: str) -> bool:
        node = self._graph.makers.get(name)
        if name in self._seen or node is None:
            return name in self.whole or name in self._clipped
        if name in self._computed:
            return bool(node.op_type == "Conv")
        return node.op_type in (*_COMPUTES, *_MOVES) and all(
            self._will_be_whole(each) for each in _operands(node)
        )

    def _clip_after(self, name: str) -> str | None:
        """Return what a clip makes of a tensor that nothing else reads."""
        readers = self._graph.readers(name)
        is_clip = len(readers) == 1 and readers[0].op_type in _CLIPS
        return str(readers[0].output[0]) if is_clip else None


def _operands(node: Any) -> list[str]:
    """Return what a node computes with, without bounds, shapes and axes."""
    return list(node.input if node.op_type in _JOINS else node.input[:1])
