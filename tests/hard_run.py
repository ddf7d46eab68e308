"""A made-up run with everything that is hard to write down: odd names, odd values, odd ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.graph.block import Block
from autoprune.graph.cost import CostTable
from autoprune.graph.group import GroupTable
from autoprune.graph.network import NetworkGraph
from autoprune.policy import Decision, LayerDecision, Policy, Recipe
from autoprune.run import Run
from autoprune.store import entries
from autoprune.trial import Deployment, Evaluation, Failure, FailureKind, Measurement
from tests.made_up_run import PROBLEM, job, stored

ODD = '=1+1,"a|b" `c`\n\'--><b>&amp;*x*\t😀'
"""The name of a group and of a layer."""
MESSAGE = '=HYPERLINK("http://x","y")\r\n\x00;-->|\udc80'
"""What an exception said."""


def hard_run(directory: Path) -> Run:
    """Return a run of seven trials; 1 is the one with everything."""
    block = Block("middle", ("conv2",), "conv2", (0, 0))
    groups = GroupTable(PROBLEM.groups.groups, [block], PROBLEM.groups.layers)
    body = NetworkGraph(groups, CostTable(PROBLEM.costs.rows, groups)).to_json()
    graph = NetworkGraph.from_json(_renamed(body))
    made = [entries.opened()]
    for number, policy in enumerate(_policies(graph)):
        label = "dense" if number == 0 else "nsga2"
        made.append(entries.asked(number, policy, label, rung=0, parent=None, batch=0))
    made += [
        entries.completed(0, full(0.03, 1e6), attempt=1),
        entries.completed(1, full(0.08, 2e5), attempt=2),
        entries.failed(2, Failure(FailureKind.CRASH, MESSAGE), attempt=3),
        entries.infeasible(3, Evaluation(full(0.2, 1e7).measurements, {"macs <= 1": 3.0})),
        entries.completed(4, full(0.05, 5e5), attempt=1),
        entries.reported(0, full(0.031, 1e6)),
        entries.reported(1, deployed(full(0.085, 2e5))),
        entries.reported(4, full(0.055, 5e5)),
    ]
    spec = {**job(), "rungs": [{"finetune_epochs": 2, "distill": True}]}
    run = stored(directory, spec, made, graph)
    # No log holds what is no number; other places may.
    nowhere = Measurement(float("nan"), float("-inf"), float("inf"))
    one = run.history.trials[1]
    assert one.evaluation is not None
    measured = {**one.evaluation.measurements, "loss": nowhere}
    with_it = replace(one, evaluation=replace(one.evaluation, measurements=measured))
    run.history.trials[1] = with_it
    return run


def _policies(graph: NetworkGraph) -> list[Policy]:
    layers = {"conv1": LayerDecision(8, 8), "conv4": LayerDecision(4)}
    decisions = {ODD: Decision(0.5), "conv1": Decision(0.25)}
    everything = Policy(decisions, Recipe("l2"), frozenset({"middle"}), layers)
    single = (Policy.from_keep_ratios({"conv4": ratio}) for ratio in (0.75, 0.5, 0.25, 0.34))
    return [Policy(), *(graph.groups.canonical(each) for each in (everything, *single))]


def full(error: float, macs: float) -> Evaluation:
    """Return values with intervals, notes and groups."""
    parts = {f"class={x}": Measurement(error * (1 + x / 5), error / 2, error * 2) for x in range(4)}
    parts[f"sex={ODD}"] = Measurement(error / 3)
    judged = Measurement(error * 2, error, error * 3, f"too few to judge: {ODD}", parts)
    measured = {
        "error": Measurement(error, error * 0.9, error * 1.1),
        "macs": Measurement(macs),
        "worst_group_error": judged,
    }
    seconds = {"seconds": 1.5, "phases_s": {"measure": 1.25}, "peak_bytes": 2**33}
    return Evaluation(measured, misses={"worst_group_error <= dense": 0.5}, **seconds)


def deployed(found: Evaluation) -> Evaluation:
    """Return an evaluation of the network as a target runs it."""
    target = Deployment("onnx", ("error",), (f"{ODD}: runs in float",), 123_456)
    return replace(found, deployment=target, weights="ab" * 32 + ".safetensors")


def _renamed(body: Any) -> Any:
    """Return JSON in which the layer conv3 has an odd name."""
    if isinstance(body, dict):
        return {_renamed(name): _renamed(each) for name, each in body.items()}
    if isinstance(body, list):
        return [_renamed(each) for each in body]
    return body.replace("conv3", ODD) if isinstance(body, str) else body
