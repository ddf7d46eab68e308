"""Checkpoints: every form that is read, and what is said about those that are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.errors import ModelError
from autoprune.models.checkpoint import load_checkpoint


def network(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def trained() -> nn.Sequential:
    """Return a network of which no value is what a fresh one has."""
    model = network()
    with torch.no_grad():
        for place, value in enumerate(model.state_dict().values()):
            value.copy_(torch.full_like(value, place + 2))
    return model


def assert_equal(model: nn.Module, expected: nn.Module, ignoring: str = "nothing") -> None:
    for name, value in expected.state_dict().items():
        if not name.endswith(ignoring):
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "best": 0.9},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["plain", "state_dict", "model", "module.", "state_dict of module."],
)
def test_torch_files_are_unwrapped(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    path = tmp_path / "weights.pt"
    torch.save(wrap(trained().state_dict()), path)
    model = network()
    load_checkpoint(model, path)
    assert_equal(model, trained())


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(trained().state_dict(), path)
    model = network()
    load_checkpoint(model, str(path))
    assert_equal(model, trained())


def test_a_module_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(nn.ModuleDict({"module": trained()}).state_dict(), path)
    model = nn.ModuleDict({"module": network()})
    load_checkpoint(model, path)
    assert_equal(model["module"], trained())


def test_old_files_without_batch_counters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = dict(trained().state_dict())
    del state["1.num_batches_tracked"]
    torch.save(state, path)
    model = network()
    load_checkpoint(model, path)
    assert_equal(model, trained(), ignoring="num_batches_tracked")


def test_half_precision_weights_are_read_into_the_models_own(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(copy.deepcopy(trained()).to(torch.bfloat16).state_dict(), path)
    model = network()
    load_checkpoint(model, path)
    assert model[0].weight.dtype == torch.float32
    assert_equal(model, trained())


def test_a_mismatch_lists_missing_unexpected_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = dict(network(width=4).state_dict())
    state["head.weight"] = state.pop("2.bias")
    del state["1.num_batches_tracked"]
    torch.save(state, path)
    with pytest.raises(ModelError) as caught:
        load_checkpoint(network(), path)
    message = str(caught.value)
    assert "1 missing: 2.bias\n" in message
    assert "1 unexpected: head.weight\n" in message
    assert "7 of another shape: 0.weight (model (3, 1, 3, 3), checkpoint (4, 1, 3, 3))" in message
    assert "and 2 more" in message
    assert str(path) in message
    assert "Sequential" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint at .*absent\.pt"):
        load_checkpoint(network(), tmp_path / "absent.pt")
    with pytest.raises(ModelError, match="no checkpoint at"):
        load_checkpoint(network(), tmp_path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", bytes(100)])
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        load_checkpoint(network(), path)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(ModelError, match="would run their code"):
        load_checkpoint(network(), path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({"epoch": 3, "weights": {}}, "not tensors: epoch, weights"),
        ({}, "holds nothing"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ModelError, match=words):
        load_checkpoint(network(), path)
