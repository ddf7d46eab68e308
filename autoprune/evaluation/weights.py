"""Weights of candidates as safetensors files, named by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from autoprune.errors import RunError


def save_weights(network: nn.Module, directory: Path) -> str:
    """Write the state of `network` and return the file's name; equal weights, one file."""
    # Copies: the format refuses tensors that share memory, as tied weights do.
    state = {
        name: each.detach().cpu().clone().contiguous()
        for name, each in network.state_dict().items()
    }
    content = save(state)
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


def load_weights(network: nn.Module, directory: Path, name: str) -> None:
    """Load the file `name` into `network`; raises `RunError` if it is gone or altered."""
    path = directory / name
    if not path.is_file():
        raise RunError(f"the weights file {path} is missing")
    if hashlib.sha256(path.read_bytes()).hexdigest() != name.removesuffix(".safetensors"):
        raise RunError(f"the weights file {path} was altered: its hash is not its name")
    network.load_state_dict(load_file(path))
