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
