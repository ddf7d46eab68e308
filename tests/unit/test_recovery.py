"""Recovery of candidates: batches, checkpoints, and what evaluators make of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.recovery import Batch, Recovery, Training
from autoprune.data.dataset import Dataset, Part
from autoprune.data.digits import Digits
from autoprune.errors import JobError, NonFiniteError
from autoprune.evaluation import recovery
from autoprune.evaluation.batches import Batches
from autoprune.evaluation.checkpoint import FileCheckpoint
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.inference import predict
from autoprune.evaluation.keyed_file import KeyedFile, key_of
from autoprune.job.spec import ModelSpec, SplitSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.preflight import preflight
from autoprune.recoveries.finetune import Finetune
from autoprune.validation import validated

CPU = torch.device("cpu")
POLICY = Policy.from_keep_ratios({"conv": 0.5, "down": 0.5})


# -- batches -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_raw(Digits().load(), SplitSpec())


def test_batches_go_through_all_images_in_every_epoch(dataset: Dataset) -> None:
    batches = Batches(dataset, 100, 5, CPU)
    count = len(dataset.train)
    per_epoch = -(-count // 100)
    epochs = [[batches(each + per_epoch * epoch) for each in range(per_epoch)] for epoch in (0, 1)]
    orders = [torch.cat([each.rows for each in epoch]) for epoch in epochs]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(count))
    assert not torch.equal(*orders)
    for each in epochs[0]:
        assert torch.equal(each.labels, dataset.train.labels[each.rows])
        assert torch.equal(each.inputs, dataset.normalise(dataset.train.inputs[each.rows]))


def test_a_batch_is_a_function_of_seed_and_step(dataset: Dataset) -> None:
    forwards, backwards = Batches(dataset, 64, 5, CPU), Batches(dataset, 64, 5, CPU)
    steps = (0, 3, 40, 77)
    first = {step: forwards(step).rows for step in steps}
    second = {step: backwards(step).rows for step in reversed(steps)}
    assert all(torch.equal(first[step], second[step]) for step in steps)
    assert not torch.equal(first[3], Batches(dataset, 64, 6, CPU)(3).rows)


def test_rows_of_numbers_make_batches_as_well() -> None:
    part = Part(torch.randn(10, 4), torch.arange(10) % 2)
    batch = Batches(Dataset(part, part, part, 2), 4, 0, CPU)(2)
    assert batch.inputs.shape == (2, 4)
    assert torch.equal(batch.inputs, part.inputs[batch.rows])


# -- files ---------------------------------------------------------------------------------

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(3),
    "c": torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
}


def test_a_keyed_file_gives_back_what_was_written(tmp_path: Path) -> None:
    file = KeyedFile(tmp_path, key_of({"seed": 1}))
    assert file.read() is None
    file.write(TENSORS, {"step": 1})
    file.write(TENSORS, {"step": 2, "losses": [0.1, None]})
    found = KeyedFile(tmp_path, key_of({"seed": 1})).read()
    assert found is not None
    tensors, about = found
    assert about == {"step": 2, "losses": [0.1, None]}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(each, TENSORS[name]) for name, each in tensors.items())
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
    file.remove()
    file.remove()
    assert file.read() is None


def test_damaged_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    mine, other = (KeyedFile(tmp_path, key_of({"seed": seed})) for seed in (1, 2))
    mine.write(TENSORS, {})
    path = tmp_path / mine.name
    content = path.read_bytes()
    (tmp_path / other.name).write_bytes(content)
    assert other.read() is None
    no_object = (2).to_bytes(8, "little") + b"[]"
    altered = content[:-1] + bytes([content[-1] ^ 1])
    for damaged in (b"", content[:20], content[:-1], altered, no_object):
        path.write_bytes(damaged)
        assert mine.read() is None
    header = 8 + int.from_bytes(content[:8], "little")
    words: dict[str, Any] = json.loads(content[8:header])
    words["a"]["shape"] = [3, 2]  # as many numbers, and valid
    changed = json.dumps(words).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[header:])
    assert mine.read() is None
    path.write_bytes(content)
    assert mine.read() is not None


def test_checkpoints_are_due_after_a_while_and_only_with_a_file(tmp_path: Path) -> None:
    file = KeyedFile(tmp_path, "key")
    assert not FileCheckpoint(file).is_due
    assert not FileCheckpoint(None, every_s=0.0).is_due
    assert FileCheckpoint(None).read() is None
    checkpoint = FileCheckpoint(file, every_s=0.0)
    assert checkpoint.is_due
    checkpoint.write(TENSORS, {"step": 3})
    checkpoint.every_s = 1000.0
    assert not checkpoint.is_due
    found = FileCheckpoint(file).read()
    assert found is not None
    assert found[1] == {"step": 3}
    checkpoint.remove()
    assert not any(tmp_path.iterdir())


# -- training on real data -----------------------------------------------------------------


def fresh() -> nn.Module:
    return build_model(ModelSpec(name="digits_cnn"), 10, (1, 8, 8))


def test_finetuning_learns_digits(dataset: Dataset) -> None:
    images = [dataset.normalise(dataset.search.inputs)]

    def error(network: nn.Module) -> float:
        return float((predict(network, images).argmax(1) != dataset.search.labels).float().mean())

    for recipe in (Finetune(), Finetune(mixed_precision=True, ema=0.9, warmup=0.1)):
        network = fresh()
        start = error(network)

        def loss(batch: Batch, network: nn.Module = network) -> torch.Tensor:
            return cross_entropy(network(batch.inputs).float(), batch.labels)

        recipe.recover(
            Training(
                network,
                steps=30,
                seed=0,
                learning_rate=0.05,
                batch=Batches(dataset, 64, 0, CPU),
                loss=loss,
                checkpoint=FileCheckpoint(None),
            )
        )
        assert error(network) < 0.5 * start


# -- evaluators ----------------------------------------------------------------------------


def job_of(checkpoint: Path, *rungs: Mapping[str, Any]) -> Any:
    return validated(
        {
            "model": {"name": "digits_cnn", "checkpoint": str(checkpoint)},
            "data": {"name": "digits"},
            "rungs": [{"repair_images": 200, "batch_size": 32, **rung} for rung in rungs],
            "resources": {"device": "cpu"},
        }
    )


@pytest.fixture(scope="module")
def options(digits_checkpoint: Path) -> dict[str, Any]:
    job = job_of(
        digits_checkpoint,
        {"finetune_steps": 12, "recovery": {"name": "finetune", "ema": 0.9}},
        {"finetune_steps": 12},
        {"finetune_steps": 12, "recovery": {"name": "finetune", "optimizer": "adamw"}},
        {"finetune_steps": 12, "learning_rate": 1e30},
    )
    found = preflight(job)
    return {"job": job.to_json(), "preparation": found.preparation.to_json()}


def state(evaluator: NetworkEvaluator, item: WorkItem) -> dict[str, torch.Tensor]:
    network = evaluator.network(item, torch.float32)
    assert not any(each.requires_grad for each in network.parameters())
    return dict(network.state_dict())


def equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(each, second[name]) for name, each in first.items())


def test_the_recipe_of_a_rung_is_what_trains(options: dict[str, Any]) -> None:
    evaluator = NetworkEvaluator(**options)
    states = [state(evaluator, WorkItem(1, POLICY, rung)) for rung in (0, 1, 2)]
    assert not equal(states[0], states[1])
    assert not equal(states[1], states[2])
    assert not equal(states[0], states[2])


class Killed(Exception):
    """The process ends while a step is on its way."""


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_second_attempt_goes_on_where_the_first_was(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rung: int
) -> None:
    item = WorkItem(1, POLICY, rung, seed=9)
    whole = state(NetworkEvaluator(**options), item)
    monkeypatch.setattr(recovery, "FileCheckpoint", lambda file: FileCheckpoint(file, every_s=0.0))
    done: list[int] = []
    killed_at = {"step": 7}

    class Watched(Batches):
        def __call__(self, step: int) -> Batch:
            if step == killed_at["step"]:
                raise Killed
            done.append(step)
            return super().__call__(step)

    monkeypatch.setattr(recovery, "Batches", Watched)
    for attempt, step in enumerate((7, 10)):
        killed_at["step"] = step
        with pytest.raises(Killed):
            state(NetworkEvaluator(**options, files=str(tmp_path)), replace(item, attempt=attempt))
    assert len(list(tmp_path.iterdir())) == 1
    killed_at["step"] = -1
    # What another item left is nothing to go on from.
    other = state(NetworkEvaluator(**options, files=str(tmp_path)), replace(item, seed=10))
    assert done == [*range(10), *range(12)]
    again = state(NetworkEvaluator(**options, files=str(tmp_path)), item)
    assert done == [*range(10), *range(12), 10, 11]
    assert equal(again, whole)
    assert not equal(other, whole)
    assert not any(tmp_path.iterdir())


class Noting(Recovery):
    """Writes what it was given into the network, and trains nothing."""

    def recover(self, training: Training) -> None:
        given = (training.steps, training.seed, len(training.batch(0).rows), training.learning_rate)
        training.network.get_parameter("output.bias").data[:4] = torch.tensor(given)


def test_a_recipe_of_ones_own_is_given_all_it_needs(options: dict[str, Any]) -> None:
    rung = {
        "repair": "none",
        "finetune_steps": 12,
        "batch_size": 64,
        "learning_rate": 0.25,
        "recovery": {"import": f"{__name__}:Noting"},
    }
    job = {**options["job"], "rungs": [rung]}
    evaluator = NetworkEvaluator(job=job, preparation=options["preparation"])
    found = state(evaluator, WorkItem(1, POLICY, seed=9))
    expected = dict(evaluator.bench.plan.carve(POLICY).state_dict())
    assert found.pop("output.bias")[:4].tolist() == [12, 9, 64, 0.25]
    assert equal(found, expected)


def test_a_training_that_breaks_leaves_no_checkpoint(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "FileCheckpoint", lambda file: FileCheckpoint(file, every_s=0.0))
    evaluator = NetworkEvaluator(**options, files=str(tmp_path))
    with pytest.raises(NonFiniteError, match=r"the loss is (nan|inf) at fine-tuning step [1-9]"):
        evaluator.evaluate(WorkItem(1, POLICY, rung=3))
    assert not any(tmp_path.iterdir())


# -- what a job may say --------------------------------------------------------------------


def problems(rung: Mapping[str, Any]) -> dict[str, str]:
    job = {"model": {"name": "digits_cnn"}, "data": {"name": "digits"}, "rungs": [{}, rung]}
    with pytest.raises(JobError) as caught:
        validated(job)
    return {each.path: each.rule for each in caught.value.violations}


def test_recipes_are_checked_before_anything_runs() -> None:
    base = {"finetune_steps": 5}
    assert (
        "did you mean 'finetune'"
        in problems({**base, "recovery": "fintune"})["rungs.1.recovery.name"]
    )
    found = problems({**base, "recovery": {"name": "finetune", "shedule": "cosine"}})
    assert "did you mean 'schedule'" in found["rungs.1.recovery.shedule"]
    found = problems({**base, "recovery": {"name": "finetune", "ema": 2}})
    assert "0.999" in found["rungs.1.recovery"]


def test_teachers_are_checked_before_anything_runs() -> None:
    def found(**distill: Any) -> dict[str, str]:
        return problems({"finetune_steps": 5, "distill": distill})

    assert "did you mean" in found(teacher={"name": "digit_cnn"})["rungs.1.distill.teacher.name"]
    missing = found(teacher={"name": "digits_cnn", "checkpoint": "nowhere.pt"})
    assert "does not exist" in missing["rungs.1.distill.teacher.checkpoint"]
    own = found(teacher={"name": "mlp"}, features=["conv"])
    assert "use 'attention'" in own["rungs.1.distill.features"]
    assert "front" in found(teacher="front", cached=True)["rungs.1.distill.cached"]
    for kind in ("features", "attention"):
        assert "has to run" in found(cached=True, **{kind: ["conv"]})["rungs.1.distill.cached"]
    assert "temperature" in found(temperatur=3)["rungs.1.distill.temperatur"]
