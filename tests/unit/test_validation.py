"""Validation: what only a constructor can judge is reported with its path."""

from __future__ import annotations

import pytest

from autoprune.errors import JobError
from autoprune.validation import validated


def test_values_that_a_constructor_refuses_are_violations() -> None:
    job = {
        "model": {"name": "digits_cnn"},
        "data": {"name": "digits"},
        "objectives": ["error", {"name": "latency", "batch": 0}],
    }
    with pytest.raises(JobError, match="at least 1") as caught:
        validated(job)
    assert [each.path for each in caught.value.violations] == ["objectives.1"]


def test_a_wrong_entry_is_not_a_list_too_short_as_well() -> None:
    job = {
        "model": {"name": "digits_cnn"},
        "data": {"name": "digits"},
        "rungs": [{"quantize": "int3"}],
    }
    with pytest.raises(JobError, match="'int8', 'int8_weights' or 'int4_weights'") as caught:
        validated(job)
    assert [each.path for each in caught.value.violations] == ["rungs.0.quantize"]
    with pytest.raises(JobError, match="at least 1 item") as caught:
        validated({**job, "rungs": []})
    assert [each.path for each in caught.value.violations] == ["rungs"]


@pytest.mark.parametrize(
    ("rung", "path", "words"),
    [
        ({"finetune_steps": 3, "distill": {"teacher": "dens"}}, "rungs.0.distill", "'front'"),
        ({"recovery": {"name": "finetun"}}, "rungs.0.recovery.name", "did you mean 'finetune'"),
        ({"rounding": "up"}, "rungs.0.rounding", "'adaptive'"),
    ],
)
def test_words_of_a_rung_are_checked(rung: dict[str, object], path: str, words: str) -> None:
    job = {"model": {"name": "digits_cnn"}, "data": {"name": "digits"}, "rungs": [rung]}
    with pytest.raises(JobError, match=words) as caught:
        validated(job)
    assert [each.path for each in caught.value.violations] == [path]


def test_a_number_where_a_list_is_meant_is_told_so() -> None:
    space = {"name": "mixed", "bits": 8}
    job = {"model": {"name": "digits_cnn"}, "data": {"name": "digits"}, "space": space}
    with pytest.raises(JobError, match="input should be a list") as caught:
        validated(job)
    assert [each.path for each in caught.value.violations] == ["space.bits"]
