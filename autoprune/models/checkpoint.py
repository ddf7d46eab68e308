"""Loading trained weights, without ever running code from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autoprune.errors import ModelError

_WRAPPERS = ("state_dict", "model")
_PARALLEL_PREFIX = "module."
_LISTED = 5


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a `.safetensors` file or a torch file into `model`, in place.

    Torch files may hold the state dict itself, or hold it under `state_dict` or `model`;
    the prefix `module.` that DataParallel leaves is taken off.

    Raises `ModelError` if the file is missing, cannot be read, holds more than numbers
    (nothing but tensors and plain values is ever unpickled), or does not fit the model.
    A model that it does not fit may be left partly loaded.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ModelError(f"no checkpoint at {file} (looked for it at {file.absolute()})")
    state = _without_prefix(_state(_content(file), file), model)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        difference = _difference(model.state_dict(), state) or f"  {error}"
        raise ModelError(
            f"checkpoint {file} does not fit {type(model).__name__}:\n{difference}\n"
            "check the model's name and its number of classes"
        ) from error


def _content(file: Path) -> object:
    try:
        if file.suffix == ".safetensors":
            return load_file(file, device="cpu")
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelError(
            f"checkpoint {file} cannot be read ({type(error).__name__}: {error}); expected a "
            ".safetensors file, or a file that torch.save wrote and that holds a state dict "
            "and nothing else: files with pickled classes are refused, because loading them "
            "would run their code"
        ) from error


def _state(content: object, file: Path) -> dict[str, Tensor]:
    """Return the state dict within what the file holds."""
    state: Any = content
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ModelError(f"checkpoint {file} holds a {type(state).__name__}, not a state dict")
    odd = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if odd or not state:
        found = f"entries that are not tensors: {_listed(odd)}" if odd else "nothing"
        raise ModelError(
            f"checkpoint {file} holds {found}; expected a state dict, at the top or under "
            f"{' or '.join(map(repr, _WRAPPERS))}"
        )
    return dict(state)


def _without_prefix(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    is_own_name = any(name.startswith(_PARALLEL_PREFIX) for name in model.state_dict())
    if is_own_name or not all(name.startswith(_PARALLEL_PREFIX) for name in state):
        return state
    return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in state.items()}


def _difference(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    # Old checkpoints lack these counters, and torch fills them in.
    missing = [
        name for name in expected if name not in given and not name.endswith(".num_batches_tracked")
    ]
    unexpected = [name for name in given if name not in expected]
    shapes = [
        f"{name} (model {tuple(expected[name].shape)}, checkpoint {tuple(value.shape)})"
        for name, value in given.items()
        if name in expected and expected[name].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "\n".join(
        f"  {len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
