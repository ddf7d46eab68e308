"""What workers are handed: equal to what they would read, without a copy, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.contracts.executor import WorkItem
from autoprune.data.dataset import Dataset
from autoprune.errors import ModelError
from autoprune.evaluation.material import dataset_of, gather, load_dataset
from autoprune.policy import Policy
from autoprune.preflight import evaluator_spec, preflight
from autoprune.validation import validated


@pytest.fixture
def frozen(digits_job: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    """The material as workers get it: read-only."""
    material = gather({"job": validated(digits_job).to_json()})
    for array in material.values():
        array.flags.writeable = False
    return material


def test_the_data_are_those_that_the_job_names(
    digits_job: Mapping[str, Any], frozen: Mapping[str, np.ndarray]
) -> None:
    read, handed = load_dataset(validated(digits_job)), dataset_of(frozen)
    assert handed.num_classes == read.num_classes
    assert handed.input_shape == read.input_shape
    for name in ("train", "search", "report"):
        mine, theirs = getattr(handed, name), getattr(read, name)
        assert torch.equal(mine.inputs, theirs.inputs)
        assert torch.equal(mine.labels, theirs.labels)
        assert mine.inputs.stride() == theirs.inputs.stride()  # channels last
        memory = frozen[f"{name}.inputs"].__array_interface__["data"][0]
        assert mine.inputs.data_ptr() == memory
    images = read.search.inputs[:5]
    assert torch.equal(handed.normalise(images), read.normalise(images))


def test_float_inputs_go_the_same_way() -> None:
    part = {
        "inputs": np.ones((4, 3), np.float32),
        "labels": np.arange(4),
        "groups": np.array([""][:0]),
    }
    arrays = {
        f"{name}.{key}": x for name in ("train", "search", "report") for key, x in part.items()
    }
    fixed = {"num_classes": np.array(4), "scale": np.ones(1), "shift": np.zeros(1)}
    dataset = Dataset.from_arrays(arrays | fixed)
    assert dataset.train.inputs.shape == (4, 3)
    again = dataset.to_arrays()
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())


def test_an_evaluator_needs_no_file_once_it_is_handed_the_material(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "weights.safetensors"
    checkpoint.write_bytes(Path(digits_job["model"]["checkpoint"]).read_bytes())
    job = {**digits_job, "model": {**digits_job["model"], "checkpoint": str(checkpoint)}}
    found = preflight(validated(job))
    spec = evaluator_spec(found.job, found.preparation)
    material = spec.gather()
    names = [group.name for group in found.preparation.graph.groups.prunable]
    item = WorkItem(
        0,
        found.preparation.graph.groups.canonical(
            Policy.from_keep_ratios(dict.fromkeys(names, 0.5))
        ),
    )
    expected = spec.build().evaluate(item).measurements
    checkpoint.unlink()
    assert spec.build(material=material).evaluate(item).measurements == expected
    with pytest.raises(ModelError):
        spec.build()


def test_other_weights_than_the_job_was_prepared_with_are_refused(
    digits_job: Mapping[str, Any],
) -> None:
    found = preflight(validated(digits_job))
    spec = evaluator_spec(found.job, found.preparation)
    other = validated({**digits_job, "model": {"name": "digits_cnn"}})
    with pytest.raises(ModelError, match="weights"):
        spec.build(material=gather({"job": other.to_json()}))
