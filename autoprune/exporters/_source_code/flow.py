"""What of a program is written down, and how its values are read.

flow = Flow(program, tree, tensors)
flow.nodes                 # those that have statements, in order
flow.calls[node]           # LayerCall("stem", its input)
flow.uses[node]            # how often a value is read
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from autoprune.exporters._source_code.graph import is_writing
from autoprune.exporters._source_code.layers import RECURRENT, read_by
from autoprune.exporters._source_code.tree import Tree, is_list

# How often a module was called stands behind its path.
_COUNT = re.compile(r"@\d+")


@dataclass(frozen=True, slots=True)
class LayerCall:
    """A node that is one call of what is at `path`, a layer or a sequence of `layers`."""

    path: str
    read: Node
    layers: tuple[str, ...]


class Flow:
    """The nodes of a program; `paths` are where its tensors are in `tree`, by placeholder."""

    def __init__(self, program: ExportedProgram, tree: Tree, paths: Mapping[Node, str]) -> None:
        self._tree, self.paths = tree, paths
        every = list(program.graph_module.graph.nodes)
        self.inputs = [each for each in every if each.op == "placeholder" and each not in paths]
        tensors = tree.tensors()
        self._tensors = {node: tensors[path] for node, path in paths.items()}
        self.calls = dict(self._found_calls(every))
        self._joined: set[Node] = set()  # what a call of a whole sequence does besides its last
        self._join_calls(every)
        self.uses = self._counted(every)
        running = [node for node in every if self._is_wanted(node) or self.uses[node]]
        running = [node for node in running if node.op != "placeholder"]
        self.unpacked = {node: list(_parts(node)) for node in running if _is_unpacked(node)}
        bound = {each for parts in self.unpacked.values() for each in parts}
        self.nodes = [node for node in running if node not in bound]

    def owner(self, node: Node) -> nn.Module:
        """Return the innermost module that a node belongs to."""
        return self._tree.network.get_submodule(self._modules(node)[-1])

    def block_of(self, node: Node) -> str:
        """Return the path of the innermost block that a node belongs to, "" where there is none.

        A block is a part of a sequence that is neither a layer nor a sequence itself.
        """
        return next(filter(self._is_block, reversed(self._modules(node))), "")

    def is_read(self, node: Node | None) -> bool:
        """Say whether anything reads a value."""
        return node is not None and self.uses[node] > 0

    @cached_property
    def _blocks(self) -> dict[str, bool]:
        return {}

    def _is_block(self, path: str) -> bool:
        if path not in self._blocks:
            network = self._tree.network
            parent = network.get_submodule(path.rpartition(".")[0])
            self._blocks[path] = (
                bool(path)
                and isinstance(parent, nn.Sequential | nn.ModuleList)
                and not self._tree.is_layer(path)
                and not is_list(network.get_submodule(path))
            )
        return self._blocks[path]

    def _modules(self, node: Node) -> list[str]:
        """Return the paths of the modules that a node belongs to, outermost first."""
        known = self._tree.paths
        found = [
            _COUNT.sub("", str(path))
            for path, _ in (node.meta.get("nn_module_stack") or {}).values()
        ]
        return [each for each in found if each in known] or [""]

    def _found_calls(self, nodes: list[Node]) -> Iterator[tuple[Node, LayerCall]]:
        for node in nodes:
            path = self._modules(node)[-1]
            if node.op != "call_function" or not self._tree.is_layer(path):
                continue
            layer = self._tree.network.get_submodule(path)
            read = read_by(layer, node, self._tensors.get)
            if read is None or read in self.paths:
                continue
            if not isinstance(layer, RECURRENT) or _is_unpacked(node):
                yield node, LayerCall(path, read, (path,))

    def _join_calls(self, nodes: list[Node]) -> None:
        """Make calls of all layers of a sequence, one right after the other, one call of it."""
        places = {node: place for place, node in enumerate(nodes)}
        last: dict[str, list[Node]] = {}
        for node, call in self.calls.items():
            last.setdefault(call.path, []).append(node)
        for path in sorted(self._tree.paths):
            chain = self._tree.chain(path)
            for end in last.get(chain[-1], []) if len(chain) > 1 else []:
                found = nodes[places[end] + 1 - len(chain) : places[end] + 1]
                if self._is_chain(found, chain):
                    read = self.calls[found[0]].read
                    self._joined.update(found[:-1])
                    self.calls[end] = LayerCall(path, read, tuple(chain))

    def _is_chain(self, nodes: list[Node], paths: list[str]) -> bool:
        calls = [self.calls.get(node) for node in nodes]
        if [each and each.path for each in calls] != paths:
            return False
        links = zip(nodes, calls[1:], strict=False)
        return all(each and each.read is one and len(one.users) == 1 for one, each in links)

    def _reads(self, node: Node) -> list[Node]:
        """Return what a node reads, every time that it does; tensors of the network excepted."""
        if node in self.calls:
            return [self.calls[node].read]
        found: list[Node] = []
        map_arg((node.args, node.kwargs), found.append)
        return [each for each in found if each not in self.paths]

    def _counted(self, nodes: list[Node]) -> Counter[Node]:
        """Count how often values are read by what is read itself, in the end by the output."""
        uses: Counter[Node] = Counter()
        for node in reversed(nodes):
            if self._is_wanted(node) or uses[node]:
                uses.update(self._reads(node))
        return uses

    def _is_wanted(self, node: Node) -> bool:
        """Say whether a node runs even if nothing reads its value."""
        return node.op == "output" or (is_writing(node) and node not in self._joined)


def _is_unpacked(node: Node) -> bool:
    """Say whether a node has several values, and each is taken out of them once at most."""
    if not isinstance(node.meta.get("val"), list | tuple):
        return False
    taken = [each.args[1] for each in node.users if each.target is operator.getitem]
    return len(taken) == len(node.users) == len(set(taken))


def _parts(node: Node) -> Iterator[Node | None]:
    taken: dict[Any, Node] = {each.args[1]: each for each in node.users}
    return (taken.get(place) for place in range(len(node.meta["val"])))
