"""Files of tensors that are found by what they belong to, and are whole or passed over.

file = KeyedFile(files, key_of({"policy": policy.sha256, "seed": 3}))
file.write({"weight": weight}, {"step": 40})
file.read()                                    # equal, or None
file.made_once(lambda: {"weight": found()})    # what is there; the first to come here makes it
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from autoprune.artifacts import remove_artifact, write_whole
from autoprune.evaluation.weights import from_bytes, to_bytes


def key_of(what: Mapping[str, Any]) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of every name, shape, type and value."""
    found = hashlib.sha256()
    for name, each in sorted(tensors.items()):
        found.update(f"{name}:{tuple(each.shape)}:{each.dtype};".encode())
        found.update(each.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


class KeyedFile:
    """A safetensors file in `directory`, named by `key`; there whole or not at all."""

    def __init__(self, directory: Path, key: str) -> None:
        self.directory = directory
        self.key = key

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.key}.safetensors"

    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write tensors and JSON values about them, in place of what was there."""
        words = {"key": self.key, "sha256": digest(tensors), "about": dict(about)}
        write_whole(self.directory / self.name, to_bytes(tensors, words))

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what was written; None where nothing is, or it is damaged, or of another key."""
        try:
            tensors, words = from_bytes((self.directory / self.name).read_bytes())
            if words["key"] != self.key or words["sha256"] != digest(tensors):
                return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return tensors, words["about"]

    def made_once(self, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return the tensors that are there, or those that `make` returns, which are kept.

        The processes of a machine come one at a time, so that only the first of them makes
        them; one that dies lets the next one pass.
        """
        with (self.directory / f".{self.key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self.read()
            if known is not None:
                return known[0]
            made = make()
            self.write(made, {})
            return made

    def remove(self) -> None:
        """Remove the file; one that is gone already is no error."""
        remove_artifact(self.directory, self.name)
