"""The evaluator's parts against slow twins, and the whole on digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.contracts.executor import WorkItem
from autoprune.errors import ModelError, NonFiniteError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.inference import cast, predict
from autoprune.evaluation.recovery import training_steps
from autoprune.evaluation.repair import recalibrate
from autoprune.job.spec import RungSpec
from autoprune.policy import Policy
from autoprune.preflight import preflight
from autoprune.surgery.folding import fold
from autoprune.tracing.discovery import discover
from autoprune.validation import validated
from tests.networks import ALL, Residual, built


def test_recalibration_is_the_average_over_batches() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    norm.running_mean.fill_(9.0)  # type: ignore[union-attr]
    batches = [torch.randn(5, 3, 4, 4) + shift for shift in (0.0, 3.0)]
    recalibrate(nn.Sequential(norm), batches, torch.float32)
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    variances = torch.stack([x.var((0, 2, 3), unbiased=True) for x in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.3
    assert not norm.training


def test_recalibration_in_bfloat16_lands_in_the_network_itself() -> None:
    network, example = built(Residual)
    recalibrate(network, [example.bfloat16()], torch.bfloat16)
    norm = network.get_submodule("norm")
    twin, _ = built(Residual)
    recalibrate(twin, [example], torch.float32)
    torch.testing.assert_close(
        norm.running_mean, twin.get_submodule("norm").running_mean, atol=0.05, rtol=0.05
    )
    assert network.get_submodule("one").get_parameter("weight").dtype is torch.float32


@pytest.mark.parametrize("kind", ALL)
def test_folding_changes_no_output(kind: type[nn.Module]) -> None:
    network, example = built(kind)
    pairs = discover(network, example).foldable
    folded = fold(network, pairs)
    torch.testing.assert_close(folded(example), network(example), atol=1e-5, rtol=1e-5)
    norms = [x for x in folded.modules() if isinstance(x, nn.BatchNorm2d)]
    assert len(norms) == sum(isinstance(x, nn.BatchNorm2d) for x in network.modules()) - len(pairs)


def test_a_cast_copy_shares_batch_norms_only() -> None:
    network, _ = built(Residual)
    copy = cast(network, torch.bfloat16)
    assert copy.get_submodule("norm") is network.get_submodule("norm")
    assert copy.get_submodule("one").get_parameter("weight").dtype is torch.bfloat16
    assert network.get_submodule("one").get_parameter("weight").dtype is torch.float32


def test_predictions_keep_the_order() -> None:
    network, example = built(Residual)
    torch.testing.assert_close(predict(network, [example[:1], example[1:]]), network(example))


def test_steps_of_a_rung() -> None:
    assert training_steps(RungSpec(), 100) == 0
    assert training_steps(RungSpec(finetune_steps=7), 100) == 7
    assert training_steps(RungSpec(finetune_epochs=2, batch_size=32), 100) == 8


@pytest.fixture(scope="module")
def evaluator(digits_checkpoint: Any) -> NetworkEvaluator:
    job = validated(
        {
            "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
            "data": {"name": "digits"},
            "rungs": [
                {"images": 100, "repair_images": 200},
                {"repair": "none"},
                {"repair": "ridge", "ridge_images": 200},
            ],
            "resources": {"device": "cpu"},
        }
    )
    found = preflight(job)
    return NetworkEvaluator(job=job.to_json(), preparation=found.preparation.to_json())


def test_an_evaluation_repeats_itself(evaluator: NetworkEvaluator) -> None:
    item = WorkItem(1, Policy.from_keep_ratios({"conv": 0.5, "down": 0.5}))
    first, second = evaluator.evaluate(item), evaluator.evaluate(item)
    assert first.measurements == second.measurements
    assert set(first.phases_s) == {"carve", "repair", "predict", "measure"}
    assert sum(first.phases_s.values()) <= first.seconds
    assert first.peak_bytes > 0


def test_repair_matters_and_images_count(evaluator: NetworkEvaluator) -> None:
    policy = Policy.from_keep_ratios({"conv": 0.4, "down": 0.4, "stem": 0.5})
    repaired = evaluator.evaluate(WorkItem(1, policy)).value("error")
    broken = evaluator.evaluate(WorkItem(1, policy, rung=1)).value("error")
    assert repaired < broken
    # 100 images: every error is a whole number of hundredths.
    assert (100 * repaired) == pytest.approx(round(100 * repaired))


def test_reconstruction_brings_the_outputs_closer(evaluator: NetworkEvaluator) -> None:
    policy = Policy.from_keep_ratios({"conv": 0.4, "down": 0.4, "stem": 0.5})
    inputs = evaluator.bench.dataset.normalise(evaluator.bench.dataset.report.inputs)
    dense = evaluator.bench.model(inputs)
    distances = [
        float((evaluator.network(WorkItem(1, policy, rung), torch.float32)(inputs) - dense).norm())
        for rung in (1, 2)
    ]
    assert distances[1] < 0.8 * distances[0]
    solved = evaluator.evaluate(WorkItem(1, policy, rung=2))
    assert set(solved.phases_s) == {"carve", "reconstruct", "predict", "measure"}
    untouched = evaluator.network(WorkItem(0, Policy(), rung=2), torch.float32)
    assert torch.equal(untouched(inputs), dense)


def test_the_dense_network_keeps_its_own_statistics(evaluator: NetworkEvaluator) -> None:
    report = evaluator.evaluate(WorkItem(0, Policy(), split="report"))
    part = evaluator.bench.dataset.report
    logits = evaluator.bench.model(evaluator.bench.dataset.normalise(part.inputs))
    wrong = float((logits.argmax(1) != part.labels).float().mean())
    assert report.value("error") == pytest.approx(wrong, abs=1e-6)


def test_only_the_search_split_is_judged_in_the_fast_format(digits_checkpoint: Any) -> None:
    job = validated(
        {
            "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
            "data": {"name": "digits"},
            "objectives": ["loss", "macs"],
            "rungs": [{"images": 200, "repair_images": 200}],
            "resources": {"device": "cpu"},
        }
    )
    found = preflight(job).preparation
    evaluators = [
        NetworkEvaluator(job=job.to_json(), preparation=replace(found, dtype=dtype).to_json())
        for dtype in (torch.float32, torch.bfloat16)
    ]
    policy = Policy.from_keep_ratios({"conv": 0.5, "down": 0.5})
    report, search = (
        [each.evaluate(WorkItem(1, policy, split=split)).value("loss") for each in evaluators]
        for split in ("report", "search")
    )
    assert report[0] == report[1]
    assert search[0] != search[1]
    assert search[1] == pytest.approx(search[0], rel=0.05, abs=0.01)


def test_costs_of_an_evaluation_are_those_of_its_network(evaluator: NetworkEvaluator) -> None:
    policy = Policy.from_keep_ratios({"conv": 0.3, "stem": 0.7})
    item = WorkItem(2, policy)
    network = evaluator.network(item, torch.float32)
    params = sum(each.numel() for each in network.parameters())
    assert evaluator.bench.preparation.graph.costs.costs(policy).params == params
    assert evaluator.evaluate(item).value("macs") < evaluator.evaluate(WorkItem(3, Policy())).value(
        "macs"
    )


def test_the_resident_model_survives_its_candidates(evaluator: NetworkEvaluator) -> None:
    before = {name: each.clone() for name, each in evaluator.bench.model.state_dict().items()}
    evaluator.evaluate(WorkItem(1, Policy.from_keep_ratios({"stem": 0.3})))
    evaluator.evaluate(WorkItem(2, Policy()))
    assert not evaluator.bench.model.training
    for name, each in evaluator.bench.model.state_dict().items():
        assert torch.equal(each, before[name])


def test_changed_weights_are_noticed(evaluator: NetworkEvaluator) -> None:
    preparation: Mapping[str, Any] = evaluator.bench.preparation.to_json()
    job = evaluator.bench.job.to_json()
    job["model"] = {**job["model"], "checkpoint": None}
    with pytest.raises(ModelError, match="changed since this job was created"):
        NetworkEvaluator(job=job, preparation=preparation)


def test_non_finite_outputs_fail_the_trial(evaluator: NetworkEvaluator) -> None:
    bias = evaluator.bench.model.get_parameter("output.bias")
    before = bias.clone()
    bias.data[0] = float("inf")
    try:
        with pytest.raises(NonFiniteError, match="non-finite"):
            evaluator.evaluate(WorkItem(5, Policy()))
    finally:
        bias.data.copy_(before)
