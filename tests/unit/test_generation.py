"""Training a PruningNet: slices, checkpoints, and networks judged with its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune import plugins
from autoprune.contracts.executor import WorkItem
from autoprune.contracts.training import TrainingItem, TrainingProgress, TrainingRequest
from autoprune.errors import NonFiniteError, RunError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.generation import drawn, load_net
from autoprune.evaluation.weights import load_tensors
from autoprune.policy import Policy, Recipe
from autoprune.preflight import evaluator_spec, preflight
from autoprune.testing.problem import small_problem
from autoprune.validation import validated

KINDS = ("residual", "full")


def test_drawn_policies_span_the_costs_of_the_space() -> None:
    problem = small_problem(units=(32,) * 20)
    rng = np.random.default_rng(0)
    drawings = [drawn(problem.space, rng) for _ in range(200)]
    assert all(problem.space.contains(each) for each in drawings)
    dense = problem.costs.costs(Policy()).macs
    shares = np.sort([problem.costs.costs(each).macs / dense for each in drawings])
    # Of independent uniform draws over 20 groups, nine tenths lie between 0.19 and 0.36.
    assert shares[40] < 0.1
    assert shares[-40] > 0.5
    levels = [set(problem.groups.kept_units(each).values()) for each in drawings]
    assert min(map(len, levels)) > 1
    assert {each.recipe.criterion for each in drawings} == {"l1", "l2"}


# -- training ------------------------------------------------------------------------------

OPTIONS = {
    "slice_steps": 10,
    "batch_size": 32,
    "learning_rate": 0.05,
    "generator": "residual",
    "rank": 4,
    "hidden": 16,
}
POLICY = Policy.from_keep_ratios({"conv": 0.4, "down": 0.4, "stem": 0.5, "block.conv1": 0.5})


@pytest.fixture(scope="module")
def evaluator(digits_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    job = validated(
        {
            "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
            "data": {"name": "digits"},
            "space": {"name": "layerwise", "depth": True},
            "rungs": [
                {"repair_images": 200},
                {"repair": "none"},
                {"repair": "both", "repair_images": 200, "ridge_images": 200},
                {"repair_images": 200, "finetune_steps": 2},
            ],
            "resources": {"device": "cpu"},
        }
    )
    files = tmp_path_factory.mktemp("files")
    return evaluator_spec(job, preflight(job).preparation, str(files)).build()


def trained(
    evaluator: NetworkEvaluator, steps: int, seed: int = 4, **options: Any
) -> list[TrainingProgress]:
    """Train to the end and return the progress of every slice."""
    request = TrainingRequest(steps, OPTIONS | options)
    slices = [evaluator.train(TrainingItem("metapruning", request, seed=seed))]
    while not slices[-1].is_complete:
        slices.append(evaluator.train(TrainingItem("metapruning", request, slices[-1], seed)))
    return slices


@pytest.fixture(scope="module")
def checkpoint(evaluator: NetworkEvaluator) -> str:
    """A generator after 60 steps."""
    return trained(evaluator, 60, slice_steps=60)[-1].checkpoint


def with_net(name: str | None) -> Policy:
    return replace(POLICY, recipe=Recipe(pruning_net=name))


@pytest.mark.parametrize("kind", KINDS)
def test_slices_add_up_to_one_training(evaluator: NetworkEvaluator, kind: str) -> None:
    whole = trained(evaluator, 20, slice_steps=20, generator=kind)
    halves = trained(evaluator, 20, slice_steps=10, generator=kind)
    assert [each.done for each in halves] == [10, 20]
    assert halves[0].checkpoint != halves[1].checkpoint == whole[0].checkpoint
    means = [each.figures["loss"] for each in halves]
    assert whole[0].figures["loss"] == pytest.approx(np.mean(means))
    assert all(each.total == 20 and each.seconds > 0 for each in halves)


def test_only_the_last_two_checkpoints_are_kept(evaluator: NetworkEvaluator) -> None:
    assert evaluator.files is not None
    first, *_, before, last = trained(evaluator, 8, seed=11, slice_steps=2)
    assert last.superseded == before.checkpoint
    assert not (evaluator.files / first.checkpoint).exists()
    assert all((evaluator.files / each.checkpoint).exists() for each in (before, last))


def test_slices_add_up_where_blocks_are_dropped(evaluator: NetworkEvaluator) -> None:
    whole = trained(evaluator, 3, seed=6, slice_steps=3)[-1].checkpoint
    steps = [each.checkpoint for each in trained(evaluator, 3, seed=6, slice_steps=1)]
    assert steps[-1] == whole
    alone = trained(evaluator, 1, seed=6, slice_steps=1)[0].checkpoint
    first, last = (load_tensors(evaluator.files, each)[0] for each in (alone, whole))
    # The first network drawn has no block, so nothing is learned about its weights yet.
    assert len(last) > len(first)


def test_the_loss_of_a_step_is_that_of_its_network(evaluator: NetworkEvaluator) -> None:
    bench = evaluator.bench
    rng = np.random.default_rng((4, 0))
    policy = drawn(plugins.create("space", bench.job.space, bench.plan.groups), rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    index = torch.randint(len(bench.dataset.train), (32,), generator=generator)
    inputs = bench.dataset.normalise(bench.dataset.train.inputs[index])
    logits, dense = bench.plan.carve(policy).train()(inputs), bench.model(inputs)
    target = torch.full((32, 10), 0.01)
    target[torch.arange(32), bench.dataset.train.labels[index]] += 0.9
    hard = -(target * logits.log_softmax(1)).sum(1).mean()
    taught, teacher = (logits / 4).log_softmax(1), (dense / 4).softmax(1)
    soft = (teacher * (teacher.log() - taught)).sum(1).mean()
    found = trained(evaluator, 1)[0].figures["loss"]
    assert found == pytest.approx(float(0.3 * hard + 0.7 * 16 * soft), rel=1e-4)


def test_training_leaves_no_trace_but_its_checkpoint(evaluator: NetworkEvaluator) -> None:
    before = {name: each.clone() for name, each in evaluator.bench.model.state_dict().items()}
    names = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        states = torch.get_rng_state(), np.random.get_state(legacy=False)
        names.append(trained(evaluator, 5)[-1].checkpoint)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert repr(np.random.get_state(legacy=False)) == repr(states[1])
    assert names[0] == names[1]
    assert not evaluator.bench.model.training
    for name, each in evaluator.bench.model.state_dict().items():
        assert torch.equal(each, before[name])


def test_training_lowers_the_loss_and_the_error(
    evaluator: NetworkEvaluator, checkpoint: str
) -> None:
    generated, sliced = (
        evaluator.evaluate(WorkItem(1, with_net(name))).value("error")
        for name in (checkpoint, None)
    )
    print(generated, sliced)
    assert generated < 0.7 * sliced


def test_generated_weights_are_those_that_are_judged(
    evaluator: NetworkEvaluator, checkpoint: str
) -> None:
    net = load_net(evaluator.bench.plan, evaluator.files, checkpoint)
    weights = net.weights(POLICY)
    phases = []
    for rung in (0, 1, 2):
        network = evaluator.network(WorkItem(1, with_net(checkpoint), rung), torch.float32)
        assert all(torch.equal(network.get_parameter(x), w) for x, w in weights.items())
        assert not torch.equal(
            network.get_buffer("conv_bn.running_mean"),
            evaluator.bench.plan.carve(POLICY).get_buffer("conv_bn.running_mean"),
        )
        phases.append(set(evaluator.evaluate(WorkItem(1, with_net(checkpoint), rung)).phases_s))
    assert phases == [{"carve", "generate", "repair", "predict", "measure"}] * 3
    tuned = evaluator.network(WorkItem(1, with_net(checkpoint), rung=3), torch.float32)
    distance = (tuned.get_parameter("conv.weight") - weights["conv.weight"]).abs().max()
    assert 0 < distance < 0.1


def test_nets_are_loaded_by_name(evaluator: NetworkEvaluator, checkpoint: str) -> None:
    other = trained(evaluator, 5)[-1].checkpoint
    first, second, again = (
        evaluator.network(WorkItem(1, with_net(name)), torch.float32).get_parameter("conv.weight")
        for name in (checkpoint, other, checkpoint)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_loss_that_is_no_number_names_its_step(evaluator: NetworkEvaluator) -> None:
    with pytest.raises(NonFiniteError, match=r"the loss is (nan|inf) at step [1-9]"):
        trained(evaluator, 10, learning_rate=1e30)


def test_checkpoints_that_are_gone_or_altered_are_refused(
    evaluator: NetworkEvaluator, tmp_path: Path
) -> None:
    progress = trained(evaluator, 5)[-1]
    path = evaluator.files / progress.checkpoint
    content = path.read_bytes()
    item = TrainingItem("mine", TrainingRequest(20, OPTIONS), progress, seed=4)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match="altered"):
        evaluator.train(item)
    with pytest.raises(RunError, match="altered"):
        evaluator.evaluate(WorkItem(1, with_net(progress.checkpoint)))
    path.unlink()
    with pytest.raises(RunError, match="missing"):
        evaluator.train(item)


def test_without_a_directory_nothing_is_trained(
    evaluator: NetworkEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "files", None)
    with pytest.raises(RunError, match="files"):
        trained(evaluator, 5)
