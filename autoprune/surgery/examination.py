"""From a model to groups that hold: trace, prove, and try again where much was lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import nn

from autoprune.graph.network import NetworkGraph
from autoprune.surgery.proof import ALONE_S, Proof, prove
from autoprune.tracing.discovery import discover
from autoprune.tracing.example import Example


@dataclass(frozen=True)
class Examination:
    """What is known about a network.

    `graph` holds its proven groups, `quarantined` the names of those that failed the proof,
    `error` the largest relative difference among the cuts that passed.
    """

    graph: NetworkGraph
    quarantined: tuple[str, ...]
    error: float


def examine(model: nn.Module, example: Example) -> Examination:
    """Trace `model` on `example` (batch first, two samples are enough) and prove its groups.

    Where groups fail, the network is traced once more with widths coupled that its code may
    take from one another, and what reaches lower costs is returned; not so where the first
    proof took a minute. The model is not changed. Raises `ModelError` as `discover` does.
    """
    start = time.monotonic()
    graph = discover(model, example)
    proof = prove(model, graph.groups, example)
    plain = _examination(graph, proof)
    if not plain.quarantined or time.monotonic() - start > ALONE_S:
        return plain
    again = discover(model, example, couples=True)
    settled = zip(graph.groups, proof.groups, strict=True)
    coupled = _examination(again, prove(model, again.groups, example, settled))
    return min(plain, coupled, key=lambda each: each.graph.costs.lowest().macs)


def _examination(graph: NetworkGraph, proof: Proof) -> Examination:
    quarantined = tuple(
        group.name for group in graph.groups.prunable if proof.groups[group.name].is_frozen
    )
    return Examination(graph.with_groups(proof.groups), quarantined, proof.error)
