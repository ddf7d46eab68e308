"""Sparse networks through the evaluator: chosen, made good, trained, rounded, kept, rebuilt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.contracts.executor import WorkItem
from autoprune.errors import InputError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.job.spec import Job
from autoprune.policy import LayerDecision, Policy, Recipe
from autoprune.preflight import Preflight, evaluator_spec, preflight
from autoprune.runtimes.catalog import create
from autoprune.surgery.sparsify import matrix_of

RUNG: dict[str, Any] = {"repair_images": 200, "images": 300, "ridge_images": 128}


def prepared(digits_job: dict[str, Any], **changes: Any) -> Preflight:
    space = {"name": "mixed", "bits": [8, 32], "weights": [0.2, 1.0]}
    changes = {"rungs": [RUNG], "scoring": {"images": 64}, **changes}
    return preflight(Job.model_validate({**digits_job, "space": space, **changes}))


def evaluator_of(found: Preflight, files: Path | None = None) -> NetworkEvaluator:
    spec = evaluator_spec(found.job, found.preparation, str(files) if files else None)
    evaluator = spec.build()
    assert isinstance(evaluator, NetworkEvaluator)
    return evaluator


def sparse(
    found: Preflight, decision: LayerDecision, ratio: float = 1.0, recipe: Recipe | None = None
) -> Policy:
    groups = found.preparation.graph.groups
    pruned = Policy.from_keep_ratios({each.name: ratio for each in groups.prunable})
    layers = {each.name: decision for each in groups.layers}
    return groups.canonical(replace(pruned, layers=layers, recipe=recipe or Recipe()))


def kernels(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each for name, each in network.named_parameters() if each.dim() > 1}


def zeros(found: Preflight, policy: Policy, network: nn.Module) -> None:
    """Check that of every kernel as many weights are there as its decision says."""
    for name, each in kernels(network).items():
        decision = policy.layer(name.rpartition(".")[0])
        most, _ = decision.shape.stored(decision.keep_ratio, each.numel(), len(each))
        assert 0.8 * most <= int((each != 0).sum()) <= most


@pytest.mark.parametrize("repair", ["bn", "both"])
@pytest.mark.parametrize("pattern", [None, "2:4", "4x1"])
def test_as_many_weights_are_there_as_were_decided(
    digits_job: dict[str, Any], pattern: str | None, repair: str
) -> None:
    found = prepared(digits_job, rungs=[{**RUNG, "repair": repair}])
    share = 0.5 if pattern == "2:4" else 0.3
    for ratio in (1.0, 0.5):
        policy = sparse(found, LayerDecision(keep_ratio=share, pattern=pattern), ratio)
        network = evaluator_of(found).network(WorkItem(1, policy), torch.float32)
        zeros(found, policy, network)
        if pattern == "2:4":
            for each in kernels(network).values():
                matrix = matrix_of(each)
                usable = matrix[:, : matrix.shape[1] // 4 * 4].unflatten(1, (-1, 4))
                assert int((usable != 0).sum(-1).max()) == 2


def test_costs_are_those_of_the_network_that_is_made(digits_job: dict[str, Any]) -> None:
    found = prepared(digits_job, objectives=["error", "macs", "params", "size_bytes"])
    policy = sparse(found, LayerDecision(keep_ratio=0.2), 0.5)
    evaluator = evaluator_of(found)
    measured = evaluator.evaluate(WorkItem(1, policy))
    network = evaluator.network(WorkItem(1, policy), torch.float32)
    stored = sum(
        int((each != 0).sum()) if each.dim() > 1 else each.numel() for each in network.parameters()
    )
    assert measured.value("params") == stored
    dense = evaluator.evaluate(WorkItem(2, sparse(found, LayerDecision(), 0.5)))
    assert measured.value("macs") == dense.value("macs")
    assert measured.value("size_bytes") < 0.3 * dense.value("size_bytes")


def test_what_stays_makes_up_for_what_left(digits_job: dict[str, Any]) -> None:
    """Solving beats cutting, and the second-order choice beats magnitude, without training."""
    found = prepared(digits_job, objectives=["loss", "error"])
    found = preflight(
        found.job.model_copy(
            update={
                "space": found.job.space.model_copy(
                    update={"options": {**found.job.space.options, "criterion": ["l1", "obs"]}}
                )
            }
        )
    )
    evaluator, decision = evaluator_of(found), LayerDecision(keep_ratio=0.15)

    def loss(criterion: str, repair: str) -> float:
        policy = sparse(found, decision, recipe=Recipe(criterion, repair=repair))  # type: ignore[arg-type]
        return evaluator.evaluate(WorkItem(1, policy)).value("loss")

    cut, solved, chosen = loss("l1", "bn"), loss("l1", "both"), loss("obs", "both")
    assert solved < cut
    assert chosen < cut


def test_what_left_stays_away_while_the_network_trains(digits_job: dict[str, Any]) -> None:
    rung = {**RUNG, "finetune_steps": 6, "recovery": {"name": "finetune", "ema": 0.9}}
    found = prepared(digits_job, rungs=[rung])
    policy = sparse(found, LayerDecision(keep_ratio=0.2), 0.5)
    trained = evaluator_of(found).network(WorkItem(1, policy, seed=1), torch.float32)
    zeros(found, policy, trained)
    plain = prepared(digits_job)
    before = evaluator_of(plain).network(WorkItem(1, policy, seed=1), torch.float32)
    for name, each in kernels(trained).items():
        assert torch.equal(each == 0, kernels(before)[name] == 0)
        assert not torch.equal(each, kernels(before)[name])


@pytest.mark.parametrize("rounding", ["nearest", "bias_corrected", "adaptive"])
def test_rounding_brings_nothing_back(digits_job: dict[str, Any], rounding: str) -> None:
    found = prepared(digits_job, rungs=[{**RUNG, "rounding": rounding}])
    policy = sparse(found, LayerDecision(4, 8, keep_ratio=0.3))
    network = evaluator_of(found).network(WorkItem(1, policy), torch.float32)
    for name, each in kernels(network).items():
        decision = policy.layer(name.rpartition(".")[0])
        most, _ = decision.shape.stored(0.3, each.numel(), len(each))
        assert int((each != 0).sum()) <= most


def test_rounding_in_training_brings_nothing_back(digits_job: dict[str, Any]) -> None:
    rung = {**RUNG, "finetune_steps": 4, "quantize": "int8"}
    found = prepared(digits_job, rungs=[rung])
    policy = sparse(found, LayerDecision(keep_ratio=0.2))
    network = evaluator_of(found).network(WorkItem(1, policy, seed=1), torch.float32)
    for each in kernels(network).values():
        assert int((each != 0).sum()) <= max(1, round(0.2 * each.numel()))


def test_the_policy_may_choose_the_recovery(digits_job: dict[str, Any]) -> None:
    rung = {**RUNG, "finetune_steps": 8, "learning_rate": 0.02}
    found = prepared(digits_job, rungs=[rung])
    evaluator, decision = evaluator_of(found), LayerDecision(keep_ratio=0.2)

    def trained(recovery: str | None) -> dict[str, torch.Tensor]:
        policy = sparse(found, decision, recipe=Recipe(recovery=recovery))
        return kernels(evaluator.network(WorkItem(1, policy, seed=1), torch.float32))

    own, named, other = trained(None), trained("finetune"), trained("gradual")
    assert all(torch.equal(each, named[name]) for name, each in own.items())
    # It chose while it trained: others stay, as many.
    assert any(not torch.equal(each != 0, other[name] != 0) for name, each in own.items())
    for name, each in own.items():
        assert int((other[name] != 0).sum()) <= int((each != 0).sum())


def test_recoveries_are_chosen_only_where_they_are_judged(digits_job: dict[str, Any]) -> None:
    space = {"name": "mixed", "weights": [0.5, 1.0], "recovery": ["finetune", "rigl"]}
    with pytest.raises(InputError, match=r"space\.recovery .* give rungs\.0 finetune_steps"):
        prepared(digits_job, space=space)
    rungs = [{**RUNG, "finetune_steps": 2}]
    found = prepared(digits_job, space=space, rungs=rungs)
    axis = next(each for each in found.space.parameters if each.name == "recipe:recovery")
    assert axis.options == ("finetune", "rigl")  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"space\.recovery: 'growing' trains the dense network"):
        prepared(digits_job, space={**space, "recovery": ["growing"]}, rungs=rungs)


def test_it_is_kept_and_built_again(digits_job: dict[str, Any], tmp_path: Path) -> None:
    found = prepared(digits_job)
    policy = sparse(found, LayerDecision(keep_ratio=0.2), 0.5)
    evaluator = evaluator_of(found, tmp_path)
    item = WorkItem(1, policy, split="report")
    evaluation = evaluator.evaluate(item)
    assert evaluation.weights is not None
    stored = evaluator.builder.stored(policy, evaluation.weights)
    made = evaluator.network(item, torch.float32)
    for name, each in made.state_dict().items():
        assert torch.equal(each, stored.state_dict()[name])


def test_saliencies_are_found_once_for_all_processes(
    digits_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prepared(digits_job)
    policy = sparse(found, LayerDecision(keep_ratio=0.2))
    first = evaluator_of(found, tmp_path).network(WorkItem(1, policy), torch.float32)
    monkeypatch.setattr(
        "autoprune.criteria.l1.L1.saliencies", lambda *_: pytest.fail("asked again")
    )
    again = evaluator_of(found, tmp_path).network(WorkItem(1, policy), torch.float32)
    for name, each in first.state_dict().items():
        assert torch.equal(each, again.state_dict()[name])


def test_a_criterion_of_whole_units_is_refused_before_the_search(
    digits_job: dict[str, Any],
) -> None:
    space = {"name": "mixed", "weights": [0.5, 1.0], "criterion": "bn_scale"}
    with pytest.raises(InputError, match=r"'bn_scale' judges whole units.*those that can: .*l1"):
        prepared(digits_job, space=space)


def test_every_runtime_says_that_zeros_save_no_time(digits_job: dict[str, Any]) -> None:
    found = prepared(digits_job)
    network = evaluator_of(found).network(
        WorkItem(1, sparse(found, LayerDecision(keep_ratio=0.2))), torch.float32
    )
    for name in ("onnx", "openvino", "torch", "torchao"):
        assert any("no time is saved" in each for each in create(name).remarks(network))
    plain = evaluator_of(found).network(WorkItem(1, Policy()), torch.float32)
    assert not any("no time is saved" in each for each in create("torch").remarks(plain))
