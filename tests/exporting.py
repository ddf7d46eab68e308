"""Candidates as the engine hands them to exporters, for tests that need no run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate, Cut
from autoprune.graph.group import GroupTable
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.surgery.proof import prove
from autoprune.testing import NetworkExporterContract
from autoprune.tracing.discovery import discover
from tests.zoo import entry

FAMILIES = ("digits_cnn", "cifar_resnet20", "vit", "lstm")
"""The networks that every exporter is tried on; deeper ones in tests/slow."""


def vit() -> nn.Module:
    """Return a small vision transformer; jobs import it by this name."""
    return entry("vit").build()[0]


def lstm() -> nn.Module:
    """Return a small recurrent network over tokens."""
    return entry("lstm").build()[0]


def pruned(family: str, keep_ratio: float = 0.6, *, dropped: int = 0) -> Candidate:
    """Return a network of `FAMILIES` without some of its units, and of its first blocks."""
    spec, classes, example = _family(family)
    model = build_model(spec, classes, tuple(example.shape[1:])).requires_grad_(False)
    graph = discover(model, example[:2])
    groups = prove(model, graph.groups, example[:2]).groups
    ratios = {group.name: keep_ratio for group in groups.prunable}
    blocks = frozenset(block.name for block in groups.droppable[:dropped])
    policy = groups.canonical(replace(Policy.from_keep_ratios(ratios), dropped=blocks))
    plan = plan_by("l1", Evidence(model, groups))
    said = provenance(spec, groups, policy, tuple(example.shape[1:]), classes)
    said["kept"] = groups.placed(plan.kept_units(policy))
    cut = Cut(model, groups, policy, plan.kept_entries(policy))
    return Candidate(plan.carve(policy).eval(), example, said, cut=cut)


def provenance(
    spec: ModelSpec,
    groups: GroupTable,
    policy: Policy,
    input_shape: tuple[int, ...],
    classes: int = 10,
) -> dict[str, Any]:
    """Return what `autoprune.load` needs to build a pruned network again, and what a run adds."""
    measured: Mapping[str, float] = {"error": 0.25, "macs": 1e6}
    return {
        "job": "test",
        "trial": 17,
        "model": spec.model_dump(mode="json", by_alias=True),
        "policy": policy.to_json(),
        "policy_sha256": policy.sha256,
        "groups": groups.to_json(),
        "kept": {},
        "architecture": groups.fingerprint,
        "foldable": [],
        "num_classes": classes,
        "input_shape": list(input_shape),
        "split": "report",
        "measurements": dict(measured),
        "versions": {"autoprune": "0.1.0", "torch": torch.__version__},
    }


def _family(name: str) -> tuple[ModelSpec, int, Tensor]:
    seeded = torch.Generator().manual_seed(3)
    if name in ("vit", "lstm"):
        spec = ModelSpec.model_validate({"import": f"{__name__}:{name}"})
        network, given = entry(name).build()
        assert isinstance(given, Tensor)
        more = torch.randn(4, *given.shape[1:], generator=seeded)
        example = given.repeat(4, *[1] * (given.dim() - 1)) if name == "lstm" else more
        with torch.no_grad():
            return spec, int(network(given).shape[-1]), example[:4].contiguous()
    shape = (1, 8, 8) if name == "digits_cnn" else (3, 32, 32)
    return ModelSpec(name=name), 10, torch.randn(4, *shape, generator=seeded)


@cache
def digits() -> Candidate:
    """Return half of the digits network, always the same one."""
    return pruned("digits_cnn", 0.5)


class DigitsContract(NetworkExporterContract):
    """The suite of exporters of networks, on that network."""

    def source(self) -> Candidate:
        return digits()
