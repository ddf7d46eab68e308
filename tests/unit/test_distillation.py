"""Distillation: losses by hand, layers of carved networks, teachers and their logits."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.recovery import Batch, Teacher
from autoprune.data.dataset import Dataset, Part
from autoprune.errors import InputError, ModelError, RunError
from autoprune.evaluation import teachers
from autoprune.evaluation.distillation import (
    Distillation,
    Known,
    attention_map,
    channel_dim,
    distilled,
)
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.teachers import Teachers, check_teacher, training_logits
from autoprune.evaluation.weights import save_weights
from autoprune.evaluation.workbench import Workbench
from autoprune.job.spec import DistillSpec, Job, ModelSpec
from autoprune.policy import Policy
from autoprune.preflight import preflight
from autoprune.validation import validated

NARROW = Policy.from_keep_ratios({"stem": 0.5, "conv": 0.25, "down": 0.5})
WIDE = Policy.from_keep_ratios({"stem": 0.75, "conv": 0.5})


# -- by hand -------------------------------------------------------------------------------


def test_softened_logits_by_hand() -> None:
    logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    spec = DistillSpec(temperature=2.0, weight=0.25)
    # Softened by 2, the teacher says 3/4 and 1/4, the student one half each.
    distance = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    found = distilled(torch.tensor(8.0), logits, target, spec)
    assert float(found) == pytest.approx(0.75 * 8.0 + 0.25 * 4 * distance)


def test_attention_by_hand() -> None:
    outputs = torch.zeros(1, 2, 1, 2)
    outputs[0, :, 0, 0] = torch.tensor([1.0, -1.0])  # squares add up to 2
    outputs[0, 0, 0, 1] = 2.0  # to 4
    expected = torch.tensor([[2.0, 4.0]]) / math.sqrt(20)
    torch.testing.assert_close(attention_map("conv", outputs), expected)
    torch.testing.assert_close(attention_map("conv", 7 * outputs), expected)
    with pytest.raises(InputError, match=r"'hidden' have shape .* places as well"):
        attention_map("hidden", torch.zeros(2, 5))


def test_where_channels_are() -> None:
    image, tokens = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3)
    assert image.shape[channel_dim(nn.Conv2d(1, 1, 1), image)] == 2
    assert image.shape[channel_dim(nn.Linear(4, 4), image)] == 4
    assert image.shape[channel_dim(nn.LayerNorm(4), image)] == 4
    assert tokens.shape[channel_dim(nn.Sequential(), tokens)] == 3
    assert tokens.shape[channel_dim(nn.Conv1d(1, 1, 1), tokens)] == 2


# -- layers of carved networks -------------------------------------------------------------


@cache
def preparation(checkpoint: Path) -> dict[str, Any]:
    return preflight(job_of(checkpoint)).preparation.to_json()


def job_of(checkpoint: Path, **distill: Any) -> Job:
    training = {"repair": "none", "finetune_steps": 4, "batch_size": 32}
    return validated(
        {
            "model": {"name": "digits_cnn", "checkpoint": str(checkpoint)},
            "data": {"name": "digits"},
            "space": {"name": "layerwise", "depth": True},
            "rungs": [{"repair": "none"}, {**training, "distill": distill or True}, training],
            "resources": {"device": "cpu"},
        }
    )


def evaluator_of(checkpoint: Path, files: Path, **distill: Any) -> NetworkEvaluator:
    job = job_of(checkpoint, **distill).to_json()
    return NetworkEvaluator(job=job, preparation=preparation(checkpoint), files=str(files))


@pytest.fixture(scope="module")
def bench(digits_checkpoint: Path) -> Workbench:
    job = job_of(digits_checkpoint).to_json()
    return NetworkEvaluator(job=job, preparation=preparation(digits_checkpoint)).bench


def batch_of(bench: Workbench, count: int = 16) -> Batch:
    part = bench.dataset.train
    inputs = bench.dataset.normalise(part.inputs[:count])
    return Batch(inputs, part.labels[:count], torch.arange(count))


def known(bench: Workbench, policy: Policy) -> Known:
    return Known(bench.plan.carve(policy), bench.plan.kept_entries(policy))


def added(bench: Workbench, student: Known, teacher: Known, **spec: Any) -> float:
    """Return what layers add to the loss of logits."""
    losses = []
    for options in ({}, spec):
        with Distillation(DistillSpec(**options), student, teacher) as distillation:
            losses.append(float(distillation.loss(batch_of(bench))))
    return losses[1] - losses[0]


@pytest.mark.parametrize("teacher", [Policy(), WIDE], ids=["dense", "larger"])
def test_what_is_kept_is_compared_with_what_it_was(bench: Workbench, teacher: Policy) -> None:
    theirs = known(bench, teacher)
    student = known(bench, NARROW)
    # The stem reads the image in both: what is kept of it is the same, channel by channel.
    assert added(bench, student, theirs, features=("stem", "stem_bn")) == 0.0
    student.network.get_parameter("stem.weight").data.mul_(2.0)
    assert added(bench, student, theirs, features=("stem",)) > 1e-3
    assert added(bench, student, theirs, features=("conv",)) > 1e-3


def test_features_are_squared_differences_of_common_channels(bench: Workbench) -> None:
    student, teacher = known(bench, NARROW), known(bench, WIDE)
    outputs: list[Tensor] = []
    for each in (student, teacher):
        handle = each.network.get_submodule("conv").register_forward_hook(
            lambda _, __, found: outputs.append(found)
        )
        each.network(batch_of(bench).inputs)
        handle.remove()
    units = [list(bench.plan.kept_units(each)["conv"]) for each in (NARROW, WIDE)]
    total = 0.0
    common = [unit for unit in units[0] if unit in units[1]]
    for unit in common:
        mine, theirs = (x[:, own.index(unit)] for x, own in zip(outputs, units, strict=True))
        total += float((mine - theirs).square().mean())
    assert 0 < len(common) <= len(units[0])
    expected = 0.5 * total / len(common)
    found = added(bench, student, teacher, features=("conv",), feature_weight=0.5)
    assert found == pytest.approx(expected, rel=1e-3)


def test_attention_needs_no_common_channels(bench: Workbench) -> None:
    student, teacher = known(bench, NARROW), Known(bench.model)
    maps = []
    for each in (student, teacher):
        handle = each.network.get_submodule("block").register_forward_hook(
            lambda _, __, found: maps.append(attention_map("block", found))
        )
        each.network(batch_of(bench).inputs)
        handle.remove()
    expected = 50.0 * float((maps[0] - maps[1]).square().mean())
    found = added(bench, student, teacher, attention=("block",), attention_weight=50.0)
    assert found == pytest.approx(expected, rel=1e-3)
    assert found > 0


def test_gradients_reach_the_student_alone(bench: Workbench) -> None:
    student, teacher = known(bench, NARROW), known(bench, WIDE)
    before = {name: each.clone() for name, each in teacher.network.state_dict().items()}
    student.network.requires_grad_(True).train()
    teacher.network.requires_grad_(True)
    spec = DistillSpec(features=("conv",), attention=("block",))
    with Distillation(spec, student, teacher) as distillation:
        distillation.loss(batch_of(bench)).backward()
    assert all(each.grad is not None for each in student.network.parameters())
    assert all(each.grad is None for each in teacher.network.parameters())
    assert all(torch.equal(x, before[name]) for name, x in teacher.network.state_dict().items())
    for each in (student.network, teacher.network):
        assert not any(module._forward_hooks for module in each.modules())


def test_layers_of_dropped_blocks_are_passed_over(bench: Workbench) -> None:
    without = replace(NARROW, dropped=frozenset({"block"}))
    student = known(bench, without)
    names = ("block.conv1", "block.bn2")
    assert added(bench, student, Known(bench.model), attention=names) == 0.0
    assert added(bench, student, Known(bench.model), features=names) == 0.0


# -- teachers ------------------------------------------------------------------------------


def trained(evaluator: NetworkEvaluator, rung: int = 1, **more: Any) -> dict[str, Tensor]:
    item = WorkItem(1, NARROW, rung, seed=3, **more)
    network = evaluator.bench.plan.carve(NARROW)
    evaluator.builder._recoveries.recover(network, item)
    return dict(network.state_dict())


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(each, second[name]) for name, each in first.items())


def test_who_teaches(digits_checkpoint: Path, tmp_path: Path) -> None:
    evaluator = partial(evaluator_of, digits_checkpoint, tmp_path)
    dense = evaluator()
    by_dense = trained(dense)
    assert not equal(by_dense, trained(dense, rung=2))
    own = {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)}
    assert equal(trained(evaluator(teacher=own)), by_dense)
    untrained = trained(evaluator(teacher={"name": "digits_cnn"}))
    assert not equal(untrained, by_dense)
    front = evaluator(teacher="front")
    assert equal(trained(front), by_dense)  # while nothing larger is known
    same = Teacher(Policy(), save_weights(dense.bench.model, tmp_path))
    assert equal(trained(front, teacher=same), by_dense)
    larger = Teacher(WIDE, save_weights(dense.bench.plan.carve(WIDE), tmp_path))
    assert not equal(trained(front, teacher=larger), by_dense)
    # Digits are not augmented: what is looked up is what a teacher that runs would say.
    cached, again = trained(evaluator(cached=True)), trained(evaluator(cached=True))
    assert equal(cached, again)
    for name, each in cached.items():
        torch.testing.assert_close(each, by_dense[name], rtol=1e-2, atol=1e-3)
    with pytest.raises(RunError, match="missing"):
        trained(front, teacher=Teacher(WIDE, "0" * 64 + ".safetensors"))


def test_a_teacher_of_the_front_is_itself(bench: Workbench, tmp_path: Path) -> None:
    larger = bench.plan.carve(WIDE)
    teacher = Teacher(WIDE, save_weights(larger, tmp_path))
    found = Teachers(bench, tmp_path).of(DistillSpec(teacher="front"), teacher)
    assert not found.network.training
    inputs = batch_of(bench).inputs
    torch.testing.assert_close(found.network(inputs), larger(inputs))
    assert added(bench, known(bench, NARROW), found, features=("stem_bn",)) == 0.0
    with pytest.raises(RunError, match="files"):
        Teachers(bench, None).of(DistillSpec(teacher="front"), teacher)


def test_a_teacher_pulls_towards_its_own_answers(bench: Workbench) -> None:
    teacher = bench.plan.carve(Policy())
    teacher.get_parameter("output.bias").data[3] += 30.0  # says 3, whatever it sees
    student = known(bench, Policy())
    optimizer = torch.optim.SGD(student.network.requires_grad_(True).parameters(), 0.02)
    with Distillation(DistillSpec(), student, Known(teacher)) as distillation:
        for _ in range(10):
            optimizer.zero_grad()
            distillation.loss(batch_of(bench, 64)).backward()
            optimizer.step()
    classes = student.network(batch_of(bench, 200).inputs).argmax(1)
    assert float((classes == 3).float().mean()) > 0.8


# -- logits that are known -----------------------------------------------------------------


class Corner(nn.Module):
    """Tells the first channel of the left and of the right edge."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images[:, 0, 0][:, [0, -1]]


def coloured(count: int = 600) -> Dataset:
    pixels = torch.randint(256, (count, 4, 4, 3), generator=torch.Generator().manual_seed(0))
    part = Part(pixels.to(torch.uint8).permute(0, 3, 1, 2), torch.arange(count) % 2)
    return Dataset(part, part, part, 2)


def test_logits_of_all_images_and_of_their_mirror_images() -> None:
    dataset = coloured()
    table = training_logits(Corner(), dataset, torch.float32)
    assert table.shape == (2, 600, 2)
    edges = dataset.train.inputs[:, 0, 0][:, [0, 3]].float() / 255
    torch.testing.assert_close(table[0], edges)
    torch.testing.assert_close(table[1], edges.flip(1))
    half = training_logits(Corner(), dataset, torch.bfloat16)
    assert half.dtype is torch.float32
    assert not torch.equal(half, table)
    rows = Part(torch.randn(5, 3, 1), torch.zeros(5, dtype=torch.long))
    assert training_logits(
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), Dataset(rows, rows, rows, 2), torch.float32
    ).shape == (1, 5, 2)


def test_a_batch_finds_its_logits(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, corner = coloured(), Corner()
    monkeypatch.setattr(bench, "dataset", dataset)
    monkeypatch.setattr(bench, "model", corner)
    lookup = Teachers(bench, None).logits(DistillSpec(cached=True))
    rows = torch.tensor([7, 500, 7])
    edges = training_logits(corner, dataset, bench.preparation.dtype)[0, rows]
    images = dataset.normalise(dataset.train.inputs[rows])
    batch = Batch(images, dataset.train.labels[rows], rows)
    assert torch.equal(lookup(batch), edges)
    mirrored = replace(batch, mirrored=torch.tensor([False, False, True]))
    expected = torch.stack([edges[0], edges[1], edges[2].flip(0)])
    assert torch.equal(lookup(mirrored), expected)


def test_logits_are_computed_once_for_all_processes(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments[0])
        return training_logits(*arguments)

    monkeypatch.setattr(teachers, "training_logits", counted)
    spec, batch = DistillSpec(cached=True), batch_of(bench)
    first = Teachers(bench, tmp_path)
    expected = first.logits(spec)(batch)
    assert torch.equal(first.logits(spec)(batch), expected)
    assert torch.equal(Teachers(bench, tmp_path).logits(spec)(batch), expected)
    assert len(calls) == 1
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    assert torch.equal(Teachers(bench, tmp_path).logits(spec)(batch), expected)
    assert len(calls) == 2
    other = DistillSpec(cached=True, teacher=ModelSpec(name="digits_cnn"))
    assert not torch.equal(Teachers(bench, tmp_path).logits(other)(batch), expected)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


# -- what is wrong with a teacher ----------------------------------------------------------


def refused(bench: Workbench, **distill: Any) -> str:
    rung = bench.job.rungs[1].model_copy(update={"distill": DistillSpec(**distill)})
    job = bench.job.model_copy(update={"rungs": (bench.job.rungs[0], rung)})
    with pytest.raises(InputError, match=r"^rungs\.1\.distill: ") as caught:
        check_teacher(job, bench.dataset, bench.model)
    return str(caught.value)


def test_teachers_that_cannot_teach_are_named(bench: Workbench) -> None:
    check_teacher(bench.job, bench.dataset, bench.model)
    wrong = refused(bench, teacher=ModelSpec(name="digits_cnn", num_classes=12))
    assert "outputs of shape (12,)" in wrong
    assert "(10,)" in wrong
    assert "reads rows" in refused(bench, teacher=ModelSpec(name="mlp"))
    assert "did you mean 'conv_bn'" in refused(bench, features=("conv_bm",))
    assert "did you mean 'block.conv2'" in refused(bench, attention=("block.conv3",))
    # A block has no weight that says which channels it keeps, and a hidden layer no map.
    assert "features cannot be at 'block'" in refused(bench, features=("block",))
    assert "places as well as channels" in refused(bench, attention=("hidden",))
    assert "features cannot be at 'conv'" in refused(bench, teacher="front", features=("conv",))


def test_maps_of_other_sizes_and_layers_that_never_run_are_named(bench: Workbench) -> None:
    own = ModelSpec.model_validate({"import": "tests.unit.test_distillation:small_teacher"})
    wrong = refused(bench, teacher=own, attention=("stem",))
    assert "(64,)" in wrong
    assert "(16,)" in wrong
    assert "not called by itself" in refused(bench, teacher=own, attention=("down",))


def small_teacher() -> nn.Module:
    return SmallTeacher()


class SmallTeacher(nn.Module):
    """A stem on half of the places, and a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 2, stride=2)
        self.down = nn.Conv2d(4, 4, 1)
        self.output = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.stem(images).mean((2, 3)))
        return logits


def test_a_model_error_stays_one(bench: Workbench) -> None:
    rung = bench.job.rungs[1].model_copy(
        update={"distill": DistillSpec(teacher=ModelSpec(name="digits_cnn", num_classes=11))}
    )
    with pytest.raises(ModelError):
        check_teacher(bench.job.model_copy(update={"rungs": (rung,)}), bench.dataset, bench.model)
