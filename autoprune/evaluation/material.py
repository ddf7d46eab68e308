"""What all evaluators of a job read: the split data and the dense weights, as plain arrays.

    material = gather(options)                # once per job, by whoever hands it out
    NetworkEvaluator(**options, material=material)

Arrays are shared without a copy by the processes of one machine, and travel to another one
once. Nothing writes to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from autoprune import plugins
from autoprune.data.dataset import Dataset
from autoprune.data.groups import read_attributes
from autoprune.evaluation.weights import from_bytes, to_bytes
from autoprune.job.spec import Job
from autoprune.models.catalog import build_model

Material: TypeAlias = Mapping[str, np.ndarray]
_WEIGHTS = "weights"


def load_dataset(job: Job) -> Dataset:
    """Read and split the job's data; raises `DataError`."""
    source = plugins.create("data", job.data.source)
    own = read_attributes(job.data)
    return Dataset.from_raw(source.load(), job.data.splits, own, job.data.groups)


def load_model(job: Job, dataset: Dataset) -> nn.Module:
    """Build the job's dense model, in eval mode on the CPU; raises `ModelError`."""
    return build_model(job.model, dataset.num_classes, dataset.input_shape)


def gather(options: Mapping[str, Any]) -> Material:
    """Read the data and the model of the job in an evaluator's options.

    Raises `DataError` or `ModelError` where they cannot be read.
    """
    job = Job.model_validate(options["job"])
    dataset = load_dataset(job)
    return packed(dataset, load_model(job, dataset))


def packed(dataset: Dataset, model: nn.Module) -> Material:
    """Return data and weights that are at hand in the form that is handed out."""
    content = np.frombuffer(to_bytes(model.state_dict()), dtype=np.uint8)
    return {**dataset.to_arrays(), _WEIGHTS: content}


def dataset_of(material: Material) -> Dataset:
    """Return the data, sharing the arrays."""
    return Dataset.from_arrays(material)


def model_of(material: Material, job: Job, dataset: Dataset) -> nn.Module:
    """Build the job's dense model with the weights that were handed out."""
    plain = job.model.model_copy(update={"checkpoint": None})
    model = build_model(plain, dataset.num_classes, dataset.input_shape)
    model.load_state_dict(from_bytes(material[_WEIGHTS].tobytes())[0])
    return model
