"""Candidates of policies that other tools can express, and files that were changed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate, Cut
from autoprune.policy import LayerDecision, Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.seal import seal
from autoprune.surgery.proof import prove
from autoprune.tracing.discovery import discover
from tests import exporting

INNER = {
    "digits_cnn": ".*",
    "cifar_resnet20": r"layer.*conv1",
    "cifar_resnet56": r"layer.*conv1",
    "vit": r".*mlp\.0",
}
"""The groups by family whose units are the output channels of layers, and nothing else."""


pruned = cache(exporting.pruned)
"""Networks of `tests.exporting`, each found once; nobody may change them."""


def recut(candidate: Candidate, policy: Policy) -> Candidate:
    """Return a candidate of the same dense network by another policy."""
    cut = candidate.cut
    assert cut is not None
    plan = plan_by("l1", Evidence(cut.dense, cut.groups))
    policy = cut.groups.canonical(policy)
    new = Cut(cut.dense, cut.groups, policy, plan.kept_entries(policy))
    return replace(candidate, network=plan.carve(policy).eval(), cut=new)


def halved(model: nn.Module, example: Tensor) -> Candidate:
    """Return a candidate without half of the units of every group of a model."""
    model = model.eval().requires_grad_(False)
    groups = prove(model, discover(model, example).groups, example).groups
    cut = Cut(model, groups, Policy(), {})
    ratios = {each.name: 0.5 for each in groups.prunable}
    return recut(Candidate(model, example, cut=cut), Policy.from_keep_ratios(ratios))


def channels_only(family: str, keep_ratio: float = 0.6) -> Candidate:
    """Return a network that lost nothing but output channels."""
    candidate = pruned(family)
    assert candidate.cut is not None
    names = [x.name for x in candidate.cut.groups.prunable if re.fullmatch(INNER[family], x.name)]
    return recut(candidate, Policy.from_keep_ratios(dict.fromkeys(names, keep_ratio)))


def with_layers(candidate: Candidate, layers: Mapping[str, LayerDecision]) -> Candidate:
    """Return a candidate whose policy says more of its layers; the network stays as it is."""
    cut = candidate.cut
    assert cut is not None
    return replace(candidate, cut=replace(cut, policy=replace(cut.policy, layers=layers)))


def bits_only() -> Candidate:
    """Return a whole network whose linear layers have bits."""
    layers = {"hidden": LayerDecision(4, 8), "output": LayerDecision(8, 8)}
    return with_layers(recut(pruned("digits_cnn"), Policy()), layers)


def reseal(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file and seal it anew, as somebody would who knows how."""
    content = re.sub(rb"(autoprune-sha256:)[0-9a-f]{64}", rb"\g<1>" + b"0" * 64, path.read_bytes())
    changed = change(content)
    assert changed != content
    path.write_bytes(changed)
    seal(path)


def stamp_in(path: Path) -> dict[str, Any]:
    """Return what a file says of where it comes from."""
    text = path.read_text(encoding="utf-8") if path.suffix != ".safetensors" else ""
    said: str
    if path.suffix == ".py":
        said = ast.literal_eval(text.splitlines()[-1].removeprefix("AUTOPRUNE = "))
    elif path.suffix == ".json":
        return dict(json.loads(text)["autoprune"])
    elif path.suffix == ".yaml":
        said = text.splitlines()[0].removeprefix("# autoprune: ")
    else:
        with safe_open(str(path), framework="pt") as file:
            said = file.metadata()["autoprune"]
    return dict(json.loads(said))
