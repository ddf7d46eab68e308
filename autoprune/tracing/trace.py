"""What one run of a network has shown so far: the labels of its tensors, and more.

The rules (`autoprune.tracing.rules`) read and write a `Trace`; `recorder` feeds it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from autoprune.graph.group import Role
from autoprune.tracing.shapes import Labels
from autoprune.tracing.ties import FIXED, Ids, Ties


@dataclass(frozen=True)
class Call:
    """One operation of the run: its arguments by their schema names, and its result."""

    name: str
    arguments: dict[str, Any]
    result: Any

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str) -> Any:
        """Return an argument, or None if the operation has none of this name."""
        return self.arguments.get(argument)

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors among the results."""
        several = self.result if isinstance(self.result, list | tuple) else [self.result]
        return [each for each in several if isinstance(each, Tensor)]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors among the arguments, lists included."""
        found: list[Tensor] = []
        for each in self.arguments.values():
            several = each if isinstance(each, list | tuple) else [each]
            found += [one for one in several if isinstance(one, Tensor)]
        return found


@dataclass(frozen=True)
class SizeUse:
    """A size that code wrote out: in module `module`, `size` entries labelled `ids`.

    `form` is the kind of operation and the place of the dimension in it.
    """

    module: str
    size: int
    ids: Ids
    form: str


@dataclass(frozen=True)
class Attribute:
    """A number that a module remembers and that must follow the kept entries of `ids`.

    `index` is the place in a tuple or list, or None for a plain number.
    """

    module: str
    name: str
    index: int | None
    ids: Ids


@dataclass(frozen=True)
class Product:
    """A product of two activations: dimensions with labels, and macs of one sample."""

    module: str
    sizes: tuple[int, ...]
    labels: tuple[Ids | None, ...]


@dataclass(frozen=True)
class Written:
    """What a layer with weights returns: dimensions with labels, and bytes of an entry."""

    module: str
    sizes: tuple[int, ...]
    labels: tuple[Ids | None, ...]
    item_bytes: int


@dataclass(frozen=True)
class Passage:
    """A module without parameters: the labels of what it takes and of what it returns."""

    module: str
    enter: Labels
    leave: Labels


@dataclass
class Trace:
    """Labels of every tensor of the run, and what else the groups are made of.

    `called` names the modules that ran. `path` and `given` are stacks: the running modules and
    the first tensor that each was given. With `couples`, sizes that code may have read off that
    tensor are tied to it.
    """

    model: nn.Module
    batch: int
    ties: Ties = field(default_factory=Ties)
    sizes: list[SizeUse] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    cuts: list[Ids] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    passages: dict[str, Passage | None] = field(default_factory=dict)
    kinds: list[tuple[Ids, str]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    path: list[str] = field(default_factory=lambda: [""])
    given: list[Tensor | None] = field(default_factory=lambda: [None])
    couples: bool = False

    def __post_init__(self) -> None:
        """Give every parameter and buffer its name; of a shared one the first name counts."""
        self._labels: dict[int, Labels] = {}
        self._alive: list[object] = []
        self._names: dict[int, str] = {}
        self._aliases: dict[int, str] = {}
        self._roles: dict[int, tuple[Ids, Role]] = {}
        self._readers: dict[int, int] = {}
        self._convolved: dict[int, str] = {}
        self._folds: list[tuple[str, str, int]] = []
        self.tensors: dict[str, Tensor] = {}
        for name, each in self.model.state_dict(keep_vars=True).items():
            if isinstance(each, Tensor) and id(each) not in self._names:
                self._names[id(each)] = name
                self.tensors[name] = each
        for name, each in self.model.named_buffers():
            if id(each) not in self._names:
                self._names[id(each)] = name
                self.tensors[name] = each

    @property
    def module(self) -> nn.Module:
        """The module whose forward is running."""
        return self.model.get_submodule(self.path[-1])

    @property
    def where(self) -> str:
        """The place in the network, in words."""
        kind = type(self.module).__name__
        return f"{self.path[-1]!r} ({kind})" if self.path[-1] else f"the forward of {kind}"

    def parameter(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter that a tensor is, or is a view of."""
        return self._names.get(id(tensor)) or self._aliases.get(id(tensor))

    def alias(self, view: Tensor, tensor: Tensor) -> None:
        """Note that `view` shows the parameter behind `tensor`, if there is one."""
        name = self.parameter(tensor)
        if name is not None:
            self._aliases[id(view)] = name

    def get(self, tensor: Tensor) -> Labels:
        """Return the labels of a tensor, one per dimension."""
        known = self._labels.get(id(tensor))
        if known is None:
            name = self._names.get(id(tensor))
            if name is None or not tensor.is_floating_point():
                return [None] * tensor.dim()
            self.order.setdefault(name, len(self.order))
            known = self.put(tensor, [self._fresh(size) for size in tensor.shape])
        return list(known)

    def _fresh(self, size: int) -> Ids:
        """Return new variables for a dimension; a single entry cannot leave."""
        ids = self.ties.fresh(size)
        if size == 1:
            self.ties.freeze(ids, "it has a single unit")
        return ids

    def put(self, tensor: Tensor, labels: Labels) -> Labels:
        """Set the labels of a tensor of the run."""
        assert len(labels) == tensor.dim(), (tuple(tensor.shape), len(labels))
        for ids, size in zip(labels, tensor.shape, strict=True):
            assert ids is None or len(ids) == size, (tuple(tensor.shape), size)
        self._labels[id(tensor)] = labels
        self._alive.append((tensor, labels))
        return labels

    def unify(self, left: Ids | None, right: Ids | None) -> Ids | None:
        """Tie two dimensions; one that stays whole makes the other stay whole."""
        if left is None or right is None:
            self.freeze(left if right is None else right, "it meets entries that always stay")
            return None
        self.ties.tie(left, right)
        return left

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """Keep these entries for good, and say at which module that was found."""
        if ids is not None:
            self.ties.freeze(ids, f"{reason} in {self.where}")

    def freeze_all(self, tensor: Tensor, reason: str) -> None:
        """Keep all entries of a tensor."""
        for ids in self.get(tensor):
            self.freeze(ids, reason)

    def mark(self, ids: Ids | None, role: Role) -> None:
        """Note what an operation does with a dimension of a parameter."""
        if ids is not None:
            # Of a shared tensor the first use counts: an embedding makes what its head reads.
            self._roles.setdefault(id(ids), (ids, role))

    def role(self, ids: Ids) -> Role:
        """Return what the operations did with a dimension of a parameter."""
        return self._roles[id(ids)][1] if id(ids) in self._roles else "along"

    def reads(self, tensor: Tensor) -> None:
        """Count the operations that read a tensor."""
        self._readers[id(tensor)] = self._readers.get(id(tensor), 0) + 1

    def convolved(self, out: Tensor) -> None:
        """Note that the running module made `out` by a convolution."""
        self._convolved[id(out)] = self.path[-1]

    def normalised(self, source: Tensor) -> None:
        """Note that the running module, a batch norm, reads `source`."""
        if id(source) in self._convolved:
            self._folds.append((self._convolved[id(source)], self.path[-1], id(source)))

    @property
    def foldable(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a convolution and the batch norm that alone reads its output."""
        counts = Counter(name for conv, norm, _ in self._folds for name in (conv, norm))
        return tuple(
            (conv, norm)
            for conv, norm, source in self._folds
            if self._readers[source] == 1 and counts[conv] == counts[norm] == 1
        )

    def multiply(self, tensor: Tensor, rows: int) -> None:
        """Note that every element of a parameter was multiplied with `rows` values."""
        name = self.parameter(tensor)
        if name is not None:
            self.rows[name] = self.rows.get(name, 0) + rows

    def writes(self, tensor: Tensor) -> None:
        """Note that the running module, which has weights, returns `tensor`."""
        labels = tuple(self.get(tensor))
        size = tensor.element_size()
        self.written.append(Written(self.path[-1], tuple(tensor.shape), labels, size))

    def couple(self, ids: Ids | None) -> None:
        """Tie a dimension of a view to one of the module's input that has the same size.

        Attention that reshapes to `C // heads` and back to `C`, read off its input, works
        only if the stream that it reads loses the same places in the same heads.
        """
        source = self.given[-1] if self.couples else None
        if ids is None or source is None:
            return
        for other in self.get(source)[1:]:
            if other is not None and len(other) == len(ids):
                self.ties.tie(other, ids)

    def cut(self, ids: Ids) -> None:
        """Note that code counts these entries: units among them are unlike all others."""
        self.cuts.append(ids)

    def use(
        self,
        call: Call,
        tensor: Tensor,
        axis: int,
        ids: Ids | None,
        size: int = 0,
        part: str = "",
    ) -> None:
        """Note that the running code gave the size of a dimension in numbers.

        The size is that of `tensor` along `axis` unless another is given. `part` tells
        apart several sizes that one operation takes.
        """
        if ids is not None:
            form = f"{call.name}/{tensor.dim()}/{axis}/{part}"
            self.sizes.append(SizeUse(self.path[-1], size or tensor.shape[axis], ids, form))

    def labelled(self, name: str) -> Labels:
        """Return the labels of a parameter or buffer after the run; unread ones have none."""
        return self._labels.get(id(self.tensors[name]), [None] * self.tensors[name].dim())


def whole(ids: Ids | None, size: int) -> Ids:
    """Return the labels of a dimension, with the variable of what stays for None."""
    return np.full(size, FIXED) if ids is None else ids
