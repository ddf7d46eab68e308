"""Units that leave after a training that prepared for it, through the evaluator and before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from autoprune.contracts.executor import WorkItem
from autoprune.errors import InputError, PolicyError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.job.spec import Job
from autoprune.policy import LayerDecision, Policy
from autoprune.preflight import Preflight, evaluator_spec, preflight

RUNG: dict[str, Any] = {"repair_images": 100, "images": 200, "finetune_steps": 8}


def prepared(
    digits_job: dict[str, Any], recovery: dict[str, Any], space: dict[str, Any] | None = None
) -> Preflight:
    rungs = [{**RUNG, "recovery": recovery}]
    chosen = space or digits_job["space"]
    return preflight(Job.model_validate({**digits_job, "rungs": rungs, "space": chosen}))


@pytest.mark.parametrize("name", ["slimming", "soft_filters"])
def test_candidates_have_the_units_of_their_policies(digits_job: dict[str, Any], name: str) -> None:
    found = prepared(digits_job, {"name": name, "until": 0.5})
    groups = found.preparation.graph.groups
    ratios = {each.name: 0.5 for each in groups.prunable}
    policy = groups.canonical(Policy.from_keep_ratios(ratios))
    spec = evaluator_spec(found.job, found.preparation)
    evaluator = spec.build()
    assert isinstance(evaluator, NetworkEvaluator)
    network = evaluator.network(WorkItem(1, policy), torch.float32)
    assert [len(network.get_parameter(f"{name}.weight")) for name in ("stem", "conv")] == [16, 32]
    measured = evaluator.evaluate(WorkItem(1, policy))
    assert measured.value("error") < 0.5
    sparse = replace(policy, layers={"down": LayerDecision(keep_ratio=0.5)})
    with pytest.raises(PolicyError, match=f"recovery '{name}' trains the dense network before"):
        evaluator.evaluate(WorkItem(2, sparse))


@pytest.mark.parametrize("more", [{"weights": [0.2, 1.0]}, {"rank": [0.4, 1.0]}])
def test_a_space_of_more_than_units_is_refused_before_the_search(
    digits_job: dict[str, Any], more: dict[str, Any]
) -> None:
    space = {"name": "mixed", "bits": [32], **more}
    with pytest.raises(InputError, match=r"rungs\.0\.recovery: 'growing' trains the dense network"):
        prepared(digits_job, {"name": "growing"}, space)
    assert prepared(digits_job, {"name": "finetune"}, space).lowest.params > 0


def test_steps_of_a_network_that_is_not_there_cannot_be_learned(
    digits_job: dict[str, Any],
) -> None:
    space = {"name": "mixed", "bits": [8, 32]}
    for recovery, chosen in (("growing", None), ("finetune", ["finetune", "growing"])):
        rungs = [RUNG, {**RUNG, "recovery": {"name": recovery}, "quantize_aware": "lsq"}]
        options = space | ({"recovery": chosen} if chosen else {})
        job = Job.model_validate({**digits_job, "rungs": rungs, "space": options})
        where = "space" if chosen else r"rungs\.1"
        with pytest.raises(InputError, match=rf"{where}\.recovery: 'growing'.*rungs\.1\.quantize"):
            preflight(job)
