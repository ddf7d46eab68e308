"""The storages that are alive while a network runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storages(TorchDispatchMode):
    """Follows the storages of all tensors that operations take and make, but for `known` ones.

    with Storages(network.parameters()) as storages:
        network(inputs)
    storages.peak                         # bytes of those alive at once
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {each.untyped_storage()._cdata for each in known}
        self._alive: dict[int, tuple[int, weakref.ref[UntypedStorage]]] = {}
        self._bytes = 0
        self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation and count what it took and made."""
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, result)):
            if isinstance(each, Tensor):
                self.count(each)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now on until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        if key not in self._alive:
            self._alive[key] = 0, weakref.ref(storage, lambda _: self._forget(key))
        size, reference = self._alive[key]
        self._alive[key] = storage.nbytes(), reference
        self._bytes += storage.nbytes() - size  # operations may also resize
        self.peak = max(self.peak, self._bytes)

    def _forget(self, key: int) -> None:
        self._bytes -= self._alive.pop(key)[0]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages of `tensors`, each once."""
    storages = {each.untyped_storage()._cdata: each.untyped_storage() for each in tensors}
    return sum(each.nbytes() for each in storages.values())
