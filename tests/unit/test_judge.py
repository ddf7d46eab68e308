"""What is measured of a network: how many passes, on what, and beside which dense one."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.errors import NonFiniteError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.policy import Policy
from autoprune.preflight import preflight
from autoprune.trial import Measurement
from autoprune.validation import validated

LOGITS_ONLY = ["error", "loss", "worst_group_error", "calibration_error", "churn"]


class Pixels(Objective):
    """What samples look like: their largest value; and the outputs, run again."""

    name: ClassVar[str] = "pixels"
    unit: ClassVar[str] = "1"
    stage: ClassVar[Stage] = Stage.SAMPLES

    def measure(self, subject: Subject) -> Measurement:
        """Return the largest input; parts: how far outputs are from those of the one pass."""
        assert subject.samples is not None
        assert subject.predictions is not None
        inputs, labels = next(subject.samples.batches(30))
        inputs = inputs.clone().requires_grad_()
        logits = subject.samples.forward(inputs)
        logits.sum().backward()
        assert inputs.grad is not None
        assert torch.equal(labels, subject.predictions.labels[: len(labels)])
        far = (logits - subject.predictions.logits[: len(labels)]).abs().max().item()
        parts = {
            "far": Measurement(far),
            "count": Measurement(float(len(labels))),
            "gradient": Measurement(inputs.grad.abs().sum().item()),
        }
        return Measurement(inputs.max().item(), parts=parts)


class Delicate(Objective):
    """What an objective that is measured alone is given."""

    name: ClassVar[str] = "delicate"
    unit: ClassVar[str] = "1"
    stage: ClassVar[Stage] = Stage.NETWORK

    def measure(self, subject: Subject) -> Measurement:
        """Return the parameters of the network, as a share of the dense one's."""
        assert subject.dense is not None
        counts = [
            sum(each.numel() for each in x.network.parameters())
            for x in (subject, subject.dense)
            if x.network is not None
        ]
        known = subject.dense.known.get("delicate", Measurement(-1.0)).value
        return Measurement(counts[0] / counts[1], parts={"known": Measurement(known)})

    def survey(self, subject: Subject) -> dict[str, Any]:
        """Return the dense network's parameters."""
        return {"macs": subject.costs.macs}


def evaluator(objectives: list[Any], **rung: Any) -> NetworkEvaluator:
    job = validated(
        {
            "model": {"name": "digits_cnn"},
            "data": {"name": "digits", "groups": ["class"]},
            "objectives": objectives,
            "rungs": [{"repair_images": 50, **rung}],
            "resources": {"workers": "serial"},
        }
    )
    found = preflight(job)
    return NetworkEvaluator(job=job.to_json(), preparation=found.preparation.to_json())


def half(evaluator: NetworkEvaluator) -> Policy:
    groups = evaluator.bench.preparation.graph.groups
    ratios = {group.name: 0.5 for group in groups.prunable}
    return groups.canonical(Policy.from_keep_ratios(ratios))


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the samples of every forward pass from now on."""
    from autoprune.evaluation import judge

    seen: list[int] = []
    plain = judge.predict

    def counted(network: nn.Module, inputs: Any) -> Any:
        seen.append(sum(len(each) for each in inputs))
        return plain(network, inputs)

    monkeypatch.setattr(judge, "predict", counted)
    return seen


def test_one_pass_serves_every_metric_of_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = evaluator(LOGITS_ONLY, images=200)
    seen = count_passes(monkeypatch)
    first = tested.evaluate(WorkItem(1, half(tested)))
    assert seen == [200, 200]  # its own, and the dense network's, which is kept
    tested.evaluate(WorkItem(2, half(tested)))
    assert seen == [200, 200, 200]
    assert set(first.measurements) == set(LOGITS_ONLY)


def test_what_nothing_compares_costs_no_dense_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = evaluator(["error"], images=100)
    seen = count_passes(monkeypatch)
    tested.evaluate(WorkItem(1, half(tested)))
    assert seen == [100]


def test_the_dense_network_differs_from_itself_in_nothing() -> None:
    tested = evaluator(["churn", "prune_disparity"])
    found = tested.evaluate(WorkItem(0, Policy()))
    assert [each.value for each in found.measurements.values()] == [0.0, 0.0]


def test_samples_are_pixels_and_run_again_to_the_same_outputs() -> None:
    tested = evaluator([f"{__name__}:Pixels"], images=20)
    measured = tested.evaluate(WorkItem(1, half(tested))).measurements["pixels"]
    assert 0.5 < measured.value <= 1.0
    assert measured.parts["count"].value == 20  # of 30: no more than the rung looks at
    # In bfloat16 the order of roundings differs; a missed normalisation would be far off.
    assert measured.parts["far"].value < 0.15
    assert measured.parts["gradient"].value > 0


def test_what_is_measured_alone_stands_beside_the_dense_network() -> None:
    tested = evaluator(["error", f"{__name__}:Delicate"])
    dense = tested.probe(WorkItem(0, Policy()), tested.evaluate(WorkItem(0, Policy())))
    assert dense.value("delicate") == 1.0
    assert dense.surveys == {
        "delicate": {"macs": tested.bench.preparation.graph.costs.costs(Policy()).macs}
    }
    item = WorkItem(1, half(tested), dense={"delicate": Measurement(1.0)})
    found = tested.probe(item, tested.evaluate(item))
    assert 0 < found.value("delicate") < 1
    assert found.measurements["delicate"].parts["known"].value == 1.0
    assert found.surveys == {}


def test_outputs_that_are_no_numbers_end_the_trial() -> None:
    tested = evaluator(["error"])
    network = tested.bench.plan.carve(half(tested)).eval()
    next(network.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="trial 7 gives non-finite outputs"):
        tested.judge.subject(network, WorkItem(7, half(tested)), torch.float32)
