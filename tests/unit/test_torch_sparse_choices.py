"""Which layers skip zeros, and what is said of them; times are made up, so no machine decides."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.objective import Subject
from autoprune.errors import JobError
from autoprune.graph.cost import Costs
from autoprune.job.spec import Job
from autoprune.objectives.latency import Backend, Latency
from autoprune.policy import Policy
from autoprune.preflight import evaluator_spec, preflight
from autoprune.runtimes.catalog import RUNTIMES, create
from autoprune.runtimes.runtime import Runner
from autoprune.runtimes.timing import Comparison
from autoprune.runtimes.torch_sparse import TorchSparse
from autoprune.trial import Evaluation, Measurement
from autoprune.validation import validated
from tests.carving import Network
from tests.skipping import (
    FIFTH,
    Seen,
    Times,
    layouts,
    mlp,
    recurrent,
    sparse,
)


@pytest.mark.parametrize(
    ("share", "skips"), [(0.89, True), (0.91, False), ((0.5, 0.99), True), ((0.5, 1.01), False)]
)
def test_zeros_are_skipped_where_that_is_clearly_faster(share: Any, skips: bool) -> None:
    network, example = nn.Sequential(sparse(nn.Linear(96, 64), FIFTH)), torch.randn(1, 96)
    runner = TorchSparse(compare=Times(share, 0.5)).build(network, example)
    assert layouts(runner) == [torch.sparse_csr] * skips
    said = "0: skipping zeros is not clearly faster: no time is saved"
    assert (runner.notes == (said,)) != skips


def test_every_layer_is_judged_by_itself() -> None:
    network = nn.Sequential(*(sparse(nn.Linear(96, 96), FIFTH) for _ in range(4)))
    times = Times(0.5, 1.5, 0.25, 0.8)
    runner = TorchSparse(compare=times).build(network, torch.randn(2, 96))
    assert len(layouts(runner)) == 3
    assert runner.notes == (
        "1: skipping zeros is not clearly faster: no time is saved",
        "0, 2, 3: without zeros 1.2 to 4.0 times as fast",
    )
    assert times.asked == 5


def test_a_network_that_is_no_faster_runs_as_in_eager_pytorch() -> None:
    network = nn.Sequential(sparse(nn.Linear(96, 96), FIFTH))
    runner = TorchSparse(compare=Times(0.5, 1.0)).build(network, torch.randn(2, 96))
    assert not layouts(runner)
    assert runner.notes == (
        "0: without zeros 2.0 times as fast alone, but not the network: no time is saved",
    )


def test_a_layer_that_is_called_twice_is_timed_on_both_calls() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        twice: Tensor = net.a(input=net.a(x)[:2])
        return twice

    network = Network(run, a=sparse(nn.Linear(96, 96), FIFTH)).eval()
    read: list[int] = []

    def compare(runner: Runner, other: Runner, **options: Any) -> Comparison:
        with Seen() as seen:
            runner.run()
        read.append(sum(x is not torch.strided for x in seen.layouts))
        return Times(0.5)(runner, other)

    TorchSparse(compare=compare).build(network, torch.randn(3, 96))
    assert read == [2, 2]


def test_kernels_that_there_are_not_are_said() -> None:
    network = nn.Sequential(sparse(nn.Linear(96, 96), FIFTH))

    def compare(runner: Runner, other: Runner, **_: Any) -> Comparison:
        raise RuntimeError("MKL is missing\nand more")

    runner = TorchSparse(compare=compare).build(network, torch.randn(3, 96))
    said = "0: no kernels here skip its zeros (MKL is missing): no time is saved"
    assert runner.notes == (said,)


def test_kernels_that_are_read_past_their_layer_stay_whole() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return nn.functional.linear(x, net.a.weight)

    network = Network(run, a=sparse(nn.Linear(96, 96), FIFTH)).eval()
    times = Times(0.5)
    runner = TorchSparse(compare=times).build(network, torch.randn(3, 96))
    assert times.asked == 0
    said = "a: the network reads its kernel past the layer, with zeros: no time is saved"
    assert runner.notes == (said,)


def test_what_becomes_of_zeros_is_said_before_anything_is_timed() -> None:
    network, example = recurrent()
    runtime = create("torch_sparse")
    whole = (
        "cells: weights that left are multiplied with as zeros: no time is saved (only linear "
        "layers and 2-d convolutions without groups can skip them)"
    )
    made = sparse(network, FIFTH)
    assert runtime.remarks(made) == [whole, "into, out: zeros are skipped where that is faster"]
    runner = TorchSparse(compare=Times(0.5)).build(made, example)
    assert runner.notes == (whole, "into, out: without zeros 2.0 times as fast")
    assert runtime.remarks(network) == []


def test_the_latency_of_a_sparse_network_says_what_is_skipped() -> None:
    network, example = mlp()
    dense = Subject(Costs(10, 10, 40), network=network, example=example)
    subject = Subject(Costs(10, 2, 8), network=sparse(network, FIFTH), example=example, dense=dense)
    latency = Latency(backend="torch_sparse", precision=0.3, seconds=0.05)
    latency.check("cpu")
    latency._runtime = TorchSparse(compare=Times(0.25))
    for each in (subject, Subject(Costs(1, 1, 1), network=subject.network, example=example)):
        found = latency.measure(each)
        assert found.value > 0
        said = found.note.split("; ")
        assert said[-2:] == [
            "3: skipping zeros is not clearly faster: no time is saved",
            "0, 2: without zeros 4.0 times as fast",
        ]
    assert latency.measure(dense).note.count("zeros") == 0


def job(**more: Any) -> Job:
    return validated({"model": {"name": "digits_cnn"}, "data": {"name": "digits"}, **more})


def test_a_trial_is_measured_where_zeros_are_skipped() -> None:
    timed = {"name": "latency", "backend": "torch_sparse", "precision": 0.3, "seconds": 0.05}
    space = {"name": "mixed", "weights": [0.2, 1.0]}
    rung = {"repair_images": 50, "images": 50}
    found = preflight(job(objectives=["error", timed], space=space, rungs=[rung]))
    groups = found.preparation.graph.groups
    policy = groups.canonical(Policy(layers={each.name: FIFTH for each in groups.layers}))
    evaluator: Any = evaluator_spec(found.job, found.preparation).build()
    item = WorkItem(1, policy, dense={"latency_ms": Measurement(8.0)})
    measured = evaluator.probe(item, Evaluation({})).measurements["latency_ms"]
    assert measured.value == 8.0 * measured.parts["ratio"].value
    # What is chosen hangs on this machine; what cannot be chosen does not.
    assert re.search(r"(without zeros [\d.]+|not clearly faster: no time)", measured.note)


def test_it_is_a_backend_and_no_target_of_a_deployment() -> None:
    assert set(get_args(Backend)) == set(RUNTIMES)
    with pytest.raises(JobError, match="'torch_compile', 'torch_sparse', 'onnx'"):
        job(objectives=["error", {"name": "latency", "backend": "torch_spars"}])
    with pytest.raises(JobError, match="'onnx', 'openvino' or 'torchao'"):
        job(quantization={"target": "torch_sparse"})
