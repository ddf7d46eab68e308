"""Quantised networks through the evaluator: built, judged, kept, rebuilt, deployed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.recovery import Teacher
from autoprune.errors import InputError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.job.spec import Job
from autoprune.policy import LayerDecision, Policy, Recipe
from autoprune.preflight import Preflight, evaluator_spec, preflight
from autoprune.quantization.form import quantised_layers
from autoprune.trial import Evaluation, Measurement

RUNG: dict[str, Any] = {"repair_images": 200, "images": 200, "rounding": "nearest"}


def prepared(digits_job: dict[str, Any], **changes: Any) -> Preflight:
    space = {"name": "mixed", "bits": [4, 8, 32]}
    return preflight(Job.model_validate({**digits_job, "space": space, "rungs": [RUNG], **changes}))


def evaluator_of(found: Preflight, files: Path | None = None) -> NetworkEvaluator:
    spec = evaluator_spec(found.job, found.preparation, str(files) if files else None)
    evaluator = spec.build()
    assert isinstance(evaluator, NetworkEvaluator)
    return evaluator


def with_bits(found: Preflight, decision: LayerDecision, ratio: float = 1.0) -> Policy:
    groups = found.preparation.graph.groups
    pruned = Policy.from_keep_ratios({each.name: ratio for each in groups.prunable})
    layers = {each.name: decision for each in groups.layers}
    return groups.canonical(replace(pruned, layers=layers))


def test_fewer_bits_cost_fewer_bytes_and_more_error(digits_job: dict[str, Any]) -> None:
    found = prepared(digits_job, objectives=["error", "loss", "size_bytes", "bitops"])
    evaluator = evaluator_of(found)
    dense, eight, four, two = (
        evaluator.evaluate(WorkItem(1, with_bits(found, LayerDecision(bits, bits))))
        for bits in (32, 8, 4, 2)
    )
    for name in ("size_bytes", "bitops"):
        values = [each.value(name) for each in (dense, eight, four, two)]
        assert values == sorted(values, reverse=True)
    assert eight.value("bitops") == dense.value("bitops") / 16
    assert abs(eight.value("loss") - dense.value("loss")) < 0.1 * abs(
        two.value("loss") - dense.value("loss")
    )
    assert two.value("error") > eight.value("error") + 0.1


def test_the_network_that_is_judged_holds_whole_numbers(digits_job: dict[str, Any]) -> None:
    found = prepared(digits_job)
    policy = with_bits(found, LayerDecision(4, 8), ratio=0.5)
    network = evaluator_of(found).network(WorkItem(1, policy), torch.float32)
    layers = quantised_layers(network)
    assert set(layers) == set(policy.layers)
    for layer in layers.values():
        weight, steps = layer.get_parameter("weight"), layer.get_buffer("weight_step")
        whole = (weight.flatten(1) / steps[:, None]).detach()
        assert torch.allclose(whole, whole.round(), atol=1e-3)
        assert whole.abs().max() <= 7.001
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in network.modules())


def test_a_rung_quantises_what_the_policy_leaves_whole(digits_job: dict[str, Any]) -> None:
    rungs = [RUNG, {**RUNG, "quantize": "int8"}]
    plain = prepared(digits_job, space="layerwise", rungs=rungs)
    evaluator = evaluator_of(plain)
    policy = with_bits(plain, LayerDecision(), ratio=0.5)
    sizes = {
        (rung, each.is_dense): evaluator.evaluate(WorkItem(1, each, rung)).value("macs")
        for rung in (0, 1)
        for each in (policy, Policy())
    }
    assert sizes[0, False] == sizes[1, False]
    for each in (policy, Policy()):
        layers = quantised_layers(evaluator.network(WorkItem(1, each, 1), torch.float32))
        assert set(layers) == {x.name for x in plain.preparation.graph.groups.layers}
        assert not quantised_layers(evaluator.network(WorkItem(1, each, 0), torch.float32))


def test_the_dense_network_stays_whole_at_the_lowest_rung(digits_job: dict[str, Any]) -> None:
    found = prepared(digits_job, space="layerwise", rungs=[{**RUNG, "quantize": "int8"}])
    evaluator = evaluator_of(found)
    assert not quantised_layers(evaluator.network(WorkItem(0, Policy()), torch.float32))
    half = with_bits(found, LayerDecision(), ratio=0.5)
    assert quantised_layers(evaluator.network(WorkItem(1, half), torch.float32))


def reported(found: Preflight, files: Path, policy: Policy) -> tuple[NetworkEvaluator, Evaluation]:
    evaluator = evaluator_of(found, files)
    # What is known of the dense network need not be surveyed again.
    item = WorkItem(1, policy, split="report", dense={"latency_ms": Measurement(1.0)})
    evaluation = evaluator.evaluate(item)
    return evaluator, evaluator.probe(item, evaluation)


def test_what_is_reported_is_measured_on_the_deployed_network(
    digits_job: dict[str, Any], tmp_path: Path
) -> None:
    objectives = ["error", "size_bytes", {"name": "latency", "backend": "onnx"}]
    found = prepared(digits_job, objectives=objectives)
    policy = with_bits(found, LayerDecision(4, 8), ratio=0.5)
    evaluator, evaluation = reported(found, tmp_path, policy)
    deployment = evaluation.deployment
    assert deployment is not None
    assert deployment.target == "onnx"
    assert set(deployment.metrics) == {"error", "latency_ms"}
    assert any("4-bit kernels run as 8-bit" in note for note in deployment.notes)
    assert deployment.file_bytes > 0
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    # Rounding alike, both judge nearly alike.
    plain = evaluator.judge.measure(
        evaluator.judge.subject(
            evaluator.builder.stored(policy, str(evaluation.weights)),
            WorkItem(1, policy, split="report"),
            torch.float32,
        )
    )
    assert abs(plain["error"].value - evaluation.value("error")) <= 0.01
    # A network without bits is not deployed.
    half = with_bits(found, LayerDecision(), ratio=0.5)
    assert reported(found, tmp_path, half)[1].deployment is None


def test_kept_weights_give_the_network_that_was_judged(
    digits_job: dict[str, Any], tmp_path: Path
) -> None:
    found = prepared(digits_job)
    policy = with_bits(found, LayerDecision(8, 8), ratio=0.5)
    evaluator = evaluator_of(found, tmp_path)
    item = WorkItem(1, policy, split="report")
    built = evaluator.network(item, torch.float32)
    weights = evaluator.evaluate(item).weights
    assert weights is not None
    again = evaluator.builder.stored(policy, weights)
    inputs = evaluator.bench.example
    assert torch.equal(built(inputs), again(inputs))


def test_recipes_choose_repair_and_rounding(digits_job: dict[str, Any]) -> None:
    found = prepared(digits_job)
    evaluator = evaluator_of(found)
    policy = with_bits(found, LayerDecision(4, 8), ratio=0.5)
    outputs = []
    for recipe in (Recipe(), Recipe(repair="none"), Recipe(rounding="bias_corrected")):
        item = WorkItem(1, replace(policy, recipe=recipe))
        outputs.append(evaluator.network(item, torch.float32)(evaluator.bench.example))
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_a_target_that_is_missing_is_said_before_the_search(
    digits_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"quantization.target: .* needs onnx"):
        prepared(digits_job)


def lowest_rank(found: Preflight, **decided: Any) -> Policy:
    """Every layer that has a rank at two, and all layers as decided."""
    groups = found.preparation.graph.groups
    layers = {
        each.name: LayerDecision(rank=2 if each.inputs else None, **decided)
        for each in groups.layers
    }
    return groups.canonical(Policy(layers=layers))


@pytest.mark.parametrize("decided", [{}, {"weight_bits": 8, "activation_bits": 8}])
def test_layers_of_low_rank_cost_what_the_tables_say(
    digits_job: dict[str, Any], tmp_path: Path, decided: dict[str, int]
) -> None:
    found = prepared(digits_job)
    policy = lowest_rank(found, **decided)
    assert policy.factorises
    evaluator = evaluator_of(found, tmp_path)
    item = WorkItem(1, policy, split="report")
    network = evaluator.network(item, torch.float32)
    kernels = sum(x.numel() for x in network.parameters() if x.dim() > 1)
    dense = sum(x.numel() for x in evaluator.bench.model.parameters() if x.dim() > 1)
    costs = found.preparation.graph.costs
    saved = costs.costs(Policy()).params - costs.costs(policy).params
    assert dense - kernels == saved > 0
    weights = evaluator.evaluate(item).weights
    assert weights is not None
    again = evaluator.builder.stored(policy, weights)
    assert torch.equal(network(evaluator.bench.example), again(evaluator.bench.example))


@pytest.mark.parametrize("aware", [False, True, "lsq"])
def test_training_knows_of_the_rounding_that_follows(
    digits_job: dict[str, Any], aware: bool | str
) -> None:
    rung = {**RUNG, "finetune_steps": 30, "learning_rate": 0.02, "quantize_aware": aware}
    found = prepared(digits_job, rungs=[RUNG, rung], objectives=["loss"])
    evaluator = evaluator_of(found)
    policy = with_bits(found, LayerDecision(2, 8), ratio=0.6)
    before = evaluator.evaluate(WorkItem(1, policy, 0)).value("loss")
    after = evaluator.evaluate(WorkItem(1, policy, 1))
    assert after.value("loss") < before
    network = evaluator.network(WorkItem(1, policy, 1), torch.float32)
    assert {len(each.get_buffer("weight_step")) for each in quantised_layers(network).values()}
    assert not any("parametrizations" in name for name, _ in network.named_modules())
    again = evaluator.evaluate(WorkItem(1, policy, 1))
    assert again.value("loss") == after.value("loss")
    if aware is True:
        blind = {**rung, "quantize_aware": False}
        other = evaluator_of(prepared(digits_job, rungs=[RUNG, blind], objectives=["loss"]))
        assert after.value("loss") < other.evaluate(WorkItem(1, policy, 1)).value("loss")


def test_networks_of_the_front_teach_smaller_ones(
    digits_job: dict[str, Any], tmp_path: Path
) -> None:
    rung = {**RUNG, "finetune_steps": 5, "distill": {"teacher": "front"}}
    found = prepared(digits_job, rungs=[rung], objectives=["loss"])
    evaluator = evaluator_of(found, tmp_path)
    large = with_bits(found, LayerDecision(8, 8), ratio=0.8)
    weights = evaluator.evaluate(WorkItem(1, large)).weights
    assert weights is not None  # kept, since it may teach
    small = WorkItem(2, with_bits(found, LayerDecision(8, 8), ratio=0.4))
    taught = replace(small, teacher=Teacher(large, weights))
    assert taught.artifacts == (weights,)
    losses = [evaluator.evaluate(each).value("loss") for each in (small, taught)]
    assert losses[0] != losses[1]


def test_forms_have_the_shapes_and_bits_of_their_networks(digits_job: dict[str, Any]) -> None:
    found = prepared(digits_job)
    evaluator = evaluator_of(found)
    for policy in (lowest_rank(found), with_bits(found, LayerDecision(4, 8), ratio=0.5)):
        built = evaluator.network(WorkItem(1, policy), torch.float32)
        form = evaluator.builder.form(policy)
        shapes = [
            {name: each.shape for name, each in x.state_dict().items()} for x in (built, form)
        ]
        assert shapes[0] == shapes[1]
        for layer in quantised_layers(form).values():  # as runtimes need it
            whole = layer.weight.flatten(1) / layer.weight_step[:, None]
            assert torch.allclose(whole, whole.round(), atol=1e-3)
