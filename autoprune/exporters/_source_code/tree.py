"""The layers and tensors of a network in source: what `__init__` builds, and how it is reached.

    tree = Tree(network)
    tree.reached("layer1.0.conv1")       # "self.layer1[0].conv1"
    tree.lines(called)                   # ["        self.layer1 = nn.ModuleList(", …]

State has the same names as the network's. Modules that are no layers of torch's become `Parts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from autoprune.exporters._source_code.layers import constructor
from autoprune.exporters._source_code.text import Call, Expression, is_name, lines_of, literal

_INDENT = 8
_NOTHING = "nn.Identity()"


def is_list(module: nn.Module) -> bool:
    """Say whether a module's parts are reached by their numbers."""
    names = list(module._modules)
    is_counted = bool(names) and names == [str(x) for x in range(len(names))]
    return is_counted and not module._parameters and not module._buffers


class Tree:
    """A network's modules; `constants` are tensors that it holds without a name, by a new one."""

    def __init__(self, network: nn.Module, constants: Mapping[str, Tensor]) -> None:
        self.network = network
        self.constants = constants
        self._layers: dict[int, Call | None] = {}
        self._used: set[str] = set()
        self._modules: dict[int, str] = {}
        self._tensors: dict[int, str] = {}
        self._ties: list[tuple[str, str]] = []

    @cached_property
    def paths(self) -> frozenset[str]:
        """Return the paths of all modules."""
        return frozenset(dict(self.network.named_modules(remove_duplicate=False)))

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the source's network by its name."""
        named = (
            *self.network.named_parameters(remove_duplicate=False),
            *self.network.named_buffers(remove_duplicate=False),
        )
        return {**dict(named), **self.constants}

    def reached(self, path: str, start: str = "", name: str = "self") -> str:
        """Return how the module or tensor at `path` is reached from `start`, known as `name`."""
        text, module = name, self.network.get_submodule(start)
        for part in path.removeprefix(start).removeprefix(".").split(".") if path != start else ():
            if is_list(module):
                text += f"[{part}]"
            elif is_name(part):
                text += f".{part}"
            else:
                text = f"getattr({text}, {literal(part)})"
            module = module._modules.get(part) or nn.Module()
        return text

    def is_layer(self, path: str) -> bool:
        """Say whether the module at `path` is constructed as a layer of torch's."""
        return bool(path) and self._layer(self.network.get_submodule(path)) is not None

    def chain(self, path: str) -> list[str]:
        """Return the paths of a sequence's layers, if the sequence is made of nothing else."""
        module = self.network.get_submodule(path)
        is_plain = path and getattr(type(module), "forward", None) is nn.Sequential.forward
        if not is_plain or not is_list(module):
            return []
        parts = [_joined(path, name) for name in module._modules]
        return parts if all(map(self.is_layer, parts)) else []

    def _layer(self, module: nn.Module) -> Call | None:
        if id(module) not in self._layers:
            self._layers[id(module)] = constructor(module)
        return self._layers[id(module)]

    def lines(self, called: set[str]) -> list[str]:
        """Return the statements that build the network; `called` are the paths of called layers."""
        self._used = {x for each in called for x in _above(each)}
        self._modules, self._tensors, self._ties = {}, {}, []
        found: list[str] = []
        for name, each in self._parts("", self.network):
            found += _assigned(name, each, is_list(self.network))
        for name, tensor in self.constants.items():
            found += lines_of(_buffer(tensor, is_kept=False), _INDENT, f"self.{name} = ")
        for path, first in self._ties:
            parent, _, name = path.rpartition(".")
            holder, value = self.reached(parent), self.reached(first)
            if is_list(self.network.get_submodule(parent)):
                found.append(f"{' ' * _INDENT}{holder}[{name}] = {value}")
            elif is_name(name):
                found.append(f"{' ' * _INDENT}{holder}.{name} = {value}")
            else:
                call = Call("setattr(", (holder, literal(name), value))
                found += lines_of(call, _INDENT)
        return found

    def _parts(self, path: str, module: nn.Module) -> Iterator[tuple[str, Expression]]:
        """Yield what a module holds, in the order of its state."""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self._seen(_joined(path, name), parameter)
                yield name, _parameter(parameter)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                self._seen(_joined(path, name), buffer)
                yield name, _buffer(buffer, name not in module._non_persistent_buffers_set)
        children = {name: _joined(path, name) for name in module._modules}
        needed = [name for name, each in children.items() if self._is_needed(each)]
        if is_list(module) and needed:
            needed = [str(x) for x in range(int(needed[-1]) + 1)]  # a list has no gaps
        for name in needed:
            child = module._modules[name]
            yield name, _NOTHING if child is None else self._module(children[name], child)

    def _module(self, path: str, module: nn.Module) -> Expression:
        if not self._is_needed(path):
            return _NOTHING
        if id(module) in self._modules:
            self._ties.append((path, self._modules[id(module)]))
            return _NOTHING
        self._modules[id(module)] = path
        layer = self._layer(module)
        if layer is not None:
            for name, each in (*module.named_parameters(), *module.named_buffers()):
                self._seen(_joined(path, name), each)
            return layer
        parts = list(self._parts(path, module))
        if not is_list(module):
            return Call("Parts(", tuple(_keyword(name, each) for name, each in parts))
        # What passes its input from part to part can also be called as a whole.
        chain = self.chain(path)
        is_chain = bool(chain) and all(self._is_needed(each) for each in chain)
        items = tuple(each for _, each in parts)
        return Call("nn.Sequential(", items) if is_chain else Call("nn.ModuleList([", items, "])")

    def _seen(self, path: str, tensor: Tensor) -> None:
        if id(tensor) in self._tensors:
            self._ties.append((path, self._tensors[id(tensor)]))
        else:
            self._tensors[id(tensor)] = path

    def _is_needed(self, path: str) -> bool:
        module = self.network.get_submodule(path)
        tensors = (*module.parameters(), *module.buffers())
        return path in self._used or bool(tensors)


def _assigned(name: str, each: Expression, to_list: bool) -> list[str]:
    """Return the statement that gives the network itself a part."""
    if to_list:
        return lines_of(Call("self.append(", (each,)), _INDENT)
    if is_name(name):
        return lines_of(each, _INDENT, f"self.{name} = ")
    return lines_of(Call("setattr(", ("self", literal(name), each)), _INDENT)


def _keyword(name: str, each: Expression) -> Expression:
    before, after = (f"{name}=", "") if is_name(name) else (f"**{{{literal(name)}: ", "}")
    if isinstance(each, str):
        return f"{before}{each}{after}"
    return Call(f"{before}{each.head}", each.items, f"{each.tail}{after}")


def _parameter(each: Tensor) -> Call:
    can_learn = each.is_floating_point() or each.is_complex()
    return Call("nn.Parameter(", (_zeros(each), *(() if can_learn else ("requires_grad=False",))))


def _buffer(each: Tensor, is_kept: bool) -> Call:
    return Call("nn.Buffer(", (_zeros(each), *(() if is_kept else ("persistent=False",))))


def _zeros(each: Tensor) -> str:
    sizes = ", ".join(map(str, each.shape)) if each.dim() else "()"
    dtype = "" if each.dtype == torch.float32 else f", dtype={each.dtype}"
    return f"torch.zeros({sizes}{dtype})"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _above(path: str) -> Iterator[str]:
    """Yield a path and those of all modules that hold it."""
    parts = path.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))
