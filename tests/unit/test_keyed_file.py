"""Files found by what they belong to: made once, whole or passed over."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoprune.evaluation.keyed_file import KeyedFile, key_of

KEY = key_of({"of": "tests"})


def test_who_comes_at_the_same_time_gets_what_the_first_one_made(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Tensor]:
        made.append(1)
        time.sleep(0.2)  # the others have come meanwhile
        return {"found": torch.arange(3)}

    found: list[Tensor] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(KeyedFile(tmp_path, KEY).made_once(make)["found"])
        )
        for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 1
    assert [each.tolist() for each in found] == [[0, 1, 2]] * 4


def test_what_cannot_be_made_leaves_nothing_and_lets_the_next_pass(tmp_path: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise RuntimeError("no room")

    file = KeyedFile(tmp_path, KEY)
    with pytest.raises(RuntimeError, match="no room"):
        file.made_once(fail)
    assert file.read() is None
    assert file.made_once(lambda: {"found": torch.ones(2)})["found"].sum() == 2


def test_damaged_files_and_those_of_others_are_made_again(tmp_path: Path) -> None:
    file = KeyedFile(tmp_path, KEY)
    file.write({"found": torch.ones(2)}, {"step": 3})
    content = (tmp_path / file.name).read_bytes()
    other = KeyedFile(tmp_path, key_of({"of": "others"}))
    (tmp_path / other.name).write_bytes(content)
    assert other.read() is None
    for damaged in (content[:-1] + b"!", content[:40], b""):
        (tmp_path / file.name).write_bytes(damaged)
        assert file.read() is None
    assert file.made_once(lambda: {"found": torch.zeros(2)})["found"].sum() == 0
    tensors, about = file.read() or ({}, {})
    assert tensors["found"].tolist() == [0, 0]
    assert about == {}
