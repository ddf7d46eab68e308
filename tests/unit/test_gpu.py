"""The evaluator on CUDA agrees with the CPU; skipped where there is no CUDA device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from autoprune.contracts.executor import WorkItem
from autoprune.policy import Policy
from autoprune.preflight import evaluator_spec, preflight
from autoprune.validation import validated

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("rung", [{"repair_images": 200}, {"finetune_steps": 5, "distill": True}])
def test_cuda_agrees_with_the_cpu(digits_job: Mapping[str, Any], rung: dict[str, Any]) -> None:
    errors = {}
    for device in ("cpu", "cuda"):
        resources = {"workers": "serial", "device": device}
        found = preflight(validated({**digits_job, "rungs": [rung], "resources": resources}))
        evaluator = evaluator_spec(found.job, found.preparation).build()
        policy = Policy.from_keep_ratios({"block.conv1": 0.5, "hidden": 0.5})
        item = WorkItem(1, found.preparation.graph.groups.canonical(policy), split="report")
        evaluation = evaluator.evaluate(item)
        errors[device] = evaluation.value("error")
        assert evaluation.device.startswith("cpu") == (device == "cpu")
    assert errors["cuda"] == pytest.approx(errors["cpu"], abs=0.02)
