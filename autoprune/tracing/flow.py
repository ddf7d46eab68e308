"""The flow of values through a run, and the branches that it shows.

Where two values are added and one comes out of operations that nothing else depends on,
those operations are a branch: a residual block, or one of several parallel paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from autoprune.graph.block import Block
from autoprune.tracing.trace import Call

_INPUT = 0
LIMIT = 20_000
"""Operations; a run of more (a recurrence written out in Python) shows no branches."""


class Flow:
    """Operations as nodes of a graph, each with the module that ran it."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        self._paths = [""]
        # Per node a bit set of the nodes that it depends on, itself included.
        self._before = [1]
        self._made = {id(each): _INPUT for each in inputs}
        self._sums: list[tuple[int, int]] = []
        self._returns: dict[str, int] = {}
        self._alive = 0

    def note(self, call: Call, path: str) -> None:
        """Add an operation that the module at `path` has run."""
        if len(self._paths) > LIMIT:
            return
        parents = [self._made[id(each)] for each in call.inputs if id(each) in self._made]
        if call.name in ("add", "add_") and len(parents) == 2 and parents[0] != parents[1]:
            self._sums.append((parents[0], parents[1]))
        node = len(self._paths)
        # Work on parameters alone belongs to whoever reads its result.
        before = 1 << node if parents else 0
        for parent in parents:
            before |= self._before[parent]
        self._paths.append(path)
        self._before.append(before)
        for each in call.outputs:
            self._made[id(each)] = node

    def returned(self, path: str, output: object) -> None:
        """Note how many values a module returned in a tuple; 0 for one tensor."""
        self._returns[path] = len(output) if isinstance(output, tuple) else 0

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """Note what the network returned: what nothing reads is no part of a branch."""
        for each in outputs:
            self._alive |= self._before[self._made.get(id(each), _INPUT)]

    def blocks(self, model: nn.Module) -> list[Block]:
        """Return the branches that hold parameters, each once, in their order.

        None are looked for in a run of more than `LIMIT` operations.
        What has no parameters runs on: it costs next to nothing, and others may read it.
        """
        if len(self._paths) > LIMIT:
            return []
        parameters = {name: _count(module) for name, module in model.named_modules()}
        masks = self._masks()
        found: dict[tuple[str, ...], str] = {}
        for sides in self._branches():
            sided = [[x for x in _whole(masks, branch) if parameters[x]] for branch in sides]
            # Of parallel branches one must stay: the larger one.
            modules = min(sided, key=lambda side: sum(parameters[each] for each in side))
            if modules:
                last = max(modules, key=lambda path: masks[path].bit_length())
                found.setdefault(tuple(modules), last)
        around = Counter(_around(modules) for modules in found)
        blocks: list[Block] = []
        names: Counter[str] = Counter()
        for key, adds in found.items():
            name = _name(key, parameters, around)
            names[name] += 1
            outputs = tuple(self._returns.get(each, 0) for each in key)
            unique = f"{name}:{names[name]}" if names[name] > 1 else name
            blocks.append(Block(unique, key, adds, outputs))
        return blocks

    def _branches(self) -> Iterator[tuple[int, ...]]:
        """Yield bit sets of nodes: a residual branch, or two parallel ones."""
        for left, right in self._sums:
            one, other = self._before[left], self._before[right]
            if one >> right & 1:
                yield (one & ~other,)
            elif other >> left & 1:
                yield (other & ~one,)
            else:
                yield one & ~other, other & ~one

    def _masks(self) -> dict[str, int]:
        """Return the nodes that every module runs, those within it included, as bit sets."""
        masks: dict[str, int] = {}
        for node, path in enumerate(self._paths):
            if path and self._alive >> node & 1:
                for each in _ancestry(path):
                    masks[each] = masks.get(each, 0) | 1 << node
        return masks


def _whole(masks: dict[str, int], branch: int) -> list[str]:
    """Return the outermost modules all of whose operations belong to a branch."""
    whole = {path for path, mask in masks.items() if not mask & ~branch}
    return [path for path in masks if path in whole and whole.isdisjoint(_ancestry(path)[1:])]


def _ancestry(path: str) -> list[str]:
    """Return a module's path and those of the modules around it, innermost first."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _around(modules: Sequence[str]) -> str:
    """Return the innermost module that holds all of several."""
    shared = set.intersection(*({*_ancestry(each)[1:]} for each in modules))
    return max(shared, key=len, default="")


def _name(modules: Sequence[str], parameters: dict[str, int], around: Counter[str]) -> str:
    """Name a branch after the module around it, or after its largest one."""
    outer = _around(modules)
    if len(modules) > 1 and outer and around[outer] == 1:
        return outer
    return max(modules, key=lambda path: parameters[path])
