"""Tensors as safetensors files, named by their SHA-256: weights of candidates, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from autoprune.artifacts import read_artifact, write_artifact

# One key only: the format writes several in no fixed order, and equal content has one name.
_ABOUT = "about"


def save_tensors(
    tensors: Mapping[str, Tensor], directory: Path, about: Mapping[str, Any] | None = None
) -> str:
    """Write tensors, and a JSON object about them; return the file's name.

    Equal tensors with equal words about them are one file.
    """
    return write_artifact(directory, to_bytes(tensors, about), ".safetensors")


def load_tensors(directory: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `save_tensors` wrote; raises `RunError` if it is gone or altered."""
    return from_bytes(read_artifact(directory, name))


def to_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> bytes:
    """Return tensors as a safetensors file, with a JSON object about them in its header."""
    # Copies: the format refuses tensors that share memory, as tied weights do.
    copies = {name: each.detach().cpu().clone().contiguous() for name, each in tensors.items()}
    return save(copies, None if about is None else {_ABOUT: json.dumps(about, sort_keys=True)})


def from_bytes(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `to_bytes` was given; raises `SafetensorError` or `ValueError` for another."""
    # The format begins with the length of its header in eight bytes, then the header in JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return load(content), json.loads(header.get("__metadata__", {}).get(_ABOUT, "{}"))


def save_weights(network: nn.Module, directory: Path) -> str:
    """Write the state of `network` and return the file's name; equal weights, one file."""
    return save_tensors(network.state_dict(), directory)


def load_weights(network: nn.Module, directory: Path, name: str) -> None:
    """Load the file `name` into `network`; raises `RunError` if it is gone or altered."""
    network.load_state_dict(load_tensors(directory, name)[0])
