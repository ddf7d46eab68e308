"""What a program computes, as the statements of a `forward`.

    forward_lines(flow, tree)     # ["        x = F.relu(self.stem_bn(self.stem(x)))", …]

A value has the first free name of a short list and gives it back when it was read for the last
time, as people write it; so nothing is kept in memory for longer than it is needed. What is
read at once, and nowhere else, stands in the expression that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from autoprune.exporters._source_code.flow import Flow
from autoprune.exporters._source_code.layers import WEIGHTED
from autoprune.exporters._source_code.operations import Written, written
from autoprune.exporters._source_code.text import Call, flat, lines_of, literal
from autoprune.exporters._source_code.tree import Tree

_INDENT = 8
_BLOCK, _DEVICE = "block", "device"
# An expression within another one: how long it may be, and how many stand in each other.
_LONGEST, _DEEPEST = 66, 4
_SHAPERS = re.compile(r"\.(flatten|reshape|view|permute|transpose|squeeze|contiguous)\([^()]*\)$")
_HEAVY = ("aten.conv", "aten.linear.", "aten.lstm.", "aten.gru.")


def forward_lines(flow: Flow, tree: Tree) -> list[str]:
    """Return the statements that compute a program's output from `x`, indented for a method.

    Raises `ExportError` for operations that no source can say.
    """
    writer = _Writer(flow, tree)
    statements = list(writer.statements())
    found = [f"{' ' * _INDENT}{_DEVICE} = x.device"] if writer.reads_device else []
    previous = ""
    for block, group in groupby(statements, key=lambda each: each.block):
        each_one = list(group)
        is_named = any(each.names_block for each in each_one)
        if found and (is_named or previous):
            found.append("")
        if is_named:
            found.append(f"{' ' * _INDENT}{_BLOCK} = {tree.reached(block)}")
        found += chain.from_iterable(each.lines for each in each_one)
        previous = block if is_named else ""
    return found


@dataclass(frozen=True, slots=True)
class _Statement:
    lines: list[str]
    block: str
    names_block: bool


@dataclass(frozen=True, slots=True)
class _Pending:
    """What is yet to stand in the one expression that reads it; `depth` are already in it."""

    written: Written
    depth: int


class _Names:
    """Names for values and for sizes: the first ones that nobody has."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, is_size: bool) -> str:
        """Return a name that is free, and take it."""
        letters = "nmkpqr" if is_size else "xyzuvwabcdefgh"
        more = (f"{letters[0]}{number}" for number in count(1))
        name = next(each for each in chain(letters, more) if each not in self._taken)
        self._taken.add(name)
        return name

    def give_back(self, name: str) -> None:
        """Let the name be taken again."""
        self._taken.remove(name)


class _Writer:
    """Writes nodes one after the other; the `Texts` of what they are given."""

    def __init__(self, flow: Flow, tree: Tree) -> None:
        self._flow, self._tree = flow, tree
        self._unread = flow.uses.copy()
        self._free = _Names()
        self._names: dict[Node, str] = {each: self._free.take(False) for each in flow.inputs}
        self._pending: dict[Node, _Pending] = {}
        self._depth, self._block, self._names_block = 0, "", False
        self.reads_device = False

    def statements(self) -> Iterator[_Statement]:
        """Yield the statements of all nodes, the return last."""
        nodes = self._flow.nodes
        for node, following in zip(nodes, [*nodes[1:], None], strict=True):
            self._depth = 1
            if node.op == "output":
                results: Any = node.args[0]
                yield self._statement(Written(self.value(results[0])), "return ")
                return
            self._enter(self._flow.block_of(node))
            found = self._written(node)
            if following is not None and self._is_inlined(node, following, found):
                self._pending[node] = _Pending(found, self._depth)
                continue
            yield self._statement(found, self._assigned(node))

    def value(self, argument: Any) -> str:
        """Return an argument as one of a call."""
        if isinstance(argument, Node):
            return flat(self._read(argument).expression)
        if isinstance(argument, list):
            return f"[{', '.join(map(self.value, argument))}]"
        if isinstance(argument, tuple):
            return f"({', '.join(map(self.value, argument))}{',' * (len(argument) == 1)})"
        if isinstance(argument, torch.device):
            self.reads_device = True
            return _DEVICE
        return literal(argument)

    def atom(self, argument: Any) -> str:
        """Return an argument in parentheses where it needs them."""
        if not isinstance(argument, Node):
            return self.value(argument)
        found = self._read(argument)
        return f"({flat(found.expression)})" if found.binds_loosely else flat(found.expression)

    def owner(self, node: Node) -> nn.Module:
        """Return the innermost module that a node belongs to."""
        return self._flow.owner(node)

    def _enter(self, block: str) -> None:
        if not self._pending:  # an expression that is begun ends in the block where it began
            self._block = block

    def _written(self, node: Node) -> Written:
        if node not in self._flow.calls:
            return written(node, self)
        call = self._flow.calls[node]
        return Written(Call(f"{self._reached(call.path)}(", (self.value(call.read),)))

    def _read(self, node: Node) -> Written:
        """Return how a value is written where it is read, and forget it after the last time."""
        if node in self._flow.paths:
            return Written(self._reached(self._flow.paths[node]))
        if node in self._pending:
            pending = self._pending.pop(node)
            self._depth = max(self._depth, pending.depth + 1)
            return pending.written
        name = self._names[node]
        self._unread[node] -= 1
        if not self._unread[node]:
            self._free.give_back(name)
        return Written(name)

    def _reached(self, path: str) -> str:
        block = self._block
        if block and path.startswith(f"{block}."):
            self._names_block = True
            return self._tree.reached(path, block, _BLOCK)
        return self._tree.reached(path)

    def _is_inlined(self, node: Node, following: Node, found: Written) -> bool:
        """Say whether an expression is to stand in the next one."""
        text = flat(found.expression)
        # Nothing comes between the two, so what they do happens in the same order.
        is_next = self._flow.uses[node] == 1 and node in _read_nodes(self._flow, following)
        is_short = len(text) <= _LONGEST and self._depth < _DEEPEST
        if not is_next or not is_short or node in self._flow.unpacked:
            return False
        if following.op == "output":
            return True
        is_small = self._depth == 1 and _SHAPERS.search(text) is not None
        is_together = self._flow.block_of(node) == self._flow.block_of(following)
        return is_together and (is_small or not self._is_heavy(following))

    def _is_heavy(self, node: Node) -> bool:
        """Say whether a node is a step of its own to a reader: a layer with a kernel."""
        call = self._flow.calls.get(node)
        if call is not None:
            return isinstance(self._tree.network.get_submodule(call.path), WEIGHTED)
        return str(node.target).startswith(_HEAVY)

    def _assigned(self, node: Node) -> str:
        """Return what stands before an expression, so that its value has names."""
        if node in self._flow.unpacked:
            names = [
                self._named(each) if each is not None and self._flow.is_read(each) else "_"
                for each in self._flow.unpacked[node]
            ]
            if node in self._flow.calls and len(names) == 3:  # those of nn.LSTM are nested
                names[1:] = ["_" if names[1:] == ["_", "_"] else f"({names[1]}, {names[2]})"]
            return f"{', '.join(names)} = " if len(names) > 1 else f"({names[0]},) = "
        return f"{self._named(node)} = " if self._flow.is_read(node) else ""

    def _named(self, node: Node) -> str:
        value = node.meta.get("val")
        self._names[node] = self._free.take(not isinstance(value, Tensor | list | tuple))
        return self._names[node]

    def _statement(self, found: Written, before: str) -> _Statement:
        statement = _Statement(
            lines_of(found.expression, _INDENT, before), self._block, self._names_block
        )
        self._names_block = False
        return statement


def _read_nodes(flow: Flow, node: Node) -> Iterable[Node]:
    return [flow.calls[node].read] if node in flow.calls else node.all_input_nodes
