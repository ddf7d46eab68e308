"""Tensors as safetensors files, named by their SHA-256: weights of candidates, checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from autoprune.errors import RunError

# One key only: the format writes several in no fixed order, and equal content has one name.
_ABOUT = "about"


def save_tensors(
    tensors: Mapping[str, Tensor], directory: Path, about: Mapping[str, Any] | None = None
) -> str:
    """Write tensors, and a JSON object about them; return the file's name.

    Equal tensors with equal words about them are one file.
    """
    # Copies: the format refuses tensors that share memory, as tied weights do.
    copies = {name: each.detach().cpu().clone().contiguous() for name, each in tensors.items()}
    metadata = None if about is None else {_ABOUT: json.dumps(about, sort_keys=True)}
    content = save(copies, metadata)
    name = f"{hashlib.sha256(content).hexdigest()}.safetensors"
    path = directory / name
    if not path.exists():
        part = directory / f".{name}.{os.getpid()}"
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    return name


def load_tensors(directory: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `save_tensors` wrote; raises `RunError` if it is gone or altered."""
    path = directory / name
    if not path.is_file():
        raise RunError(f"the weights file {path} is missing")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != name.removesuffix(".safetensors"):
        raise RunError(f"the weights file {path} was altered: its hash is not its name")
    # The format begins with the length of its header in eight bytes, then the header in JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return load(content), json.loads(header.get("__metadata__", {}).get(_ABOUT, "{}"))


def save_weights(network: nn.Module, directory: Path) -> str:
    """Write the state of `network` and return the file's name; equal weights, one file."""
    return save_tensors(network.state_dict(), directory)


def load_weights(network: nn.Module, directory: Path, name: str) -> None:
    """Load the file `name` into `network`; raises `RunError` if it is gone or altered."""
    network.load_state_dict(load_tensors(directory, name)[0])
