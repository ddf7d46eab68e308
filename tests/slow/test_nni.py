"""Configs for NNI, run by NNI 3.0 itself in an environment of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.contracts.exporter import Candidate, Cut
from autoprune.exporters.nni_exporter import Nni
from autoprune.models import cifar_resnet, digits_cnn
from autoprune.policy import Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.surgery.proof import prove
from autoprune.tracing.discovery import discover
from tests.environments import interpreter, run
from tests.handing_over import channels_only
from tests.slow import branching

PEER = Path(__file__).with_name("nni_peer.py")
DIGITS = (digits_cnn.__file__, "DigitsCnn", {})
RESNET = (cifar_resnet.__file__, "CifarResNet", {"depth": 20})
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def python() -> Path:
    return interpreter("nni", "nni==3.0")


def pruned_by_nni(
    python: Path,
    dense: tuple[str | None, str, dict[str, Any]],
    candidate: Candidate,
    config: Any,
    room: Path,
) -> dict[str, Any]:
    """Return what NNI makes of the dense network."""
    task = {
        "file": dense[0],
        "class": dense[1],
        "arguments": dense[2],
        "input_shape": list(candidate.example.shape),
        "config_list": config,
    }
    (room / "task.json").write_text(json.dumps(task))
    found: dict[str, Any] = json.loads(
        run([str(python), str(PEER), str(room / "task.json")]).splitlines()[-1]
    )
    return found


def config_of(candidate: Candidate, room: Path) -> Any:
    path = Nni().export(candidate, room / "knee.json").path
    return json.loads(path.read_text())["config_list"]


def shapes_of(candidate: Candidate) -> dict[str, list[int]]:
    return {name: list(each.shape) for name, each in candidate.network.named_parameters()}


@pytest.mark.parametrize("keep_ratio", [0.25, 0.6, 0.9])
@pytest.mark.parametrize(
    ("family", "dense"), [("digits_cnn", DIGITS), ("cifar_resnet20", RESNET)], ids=["cnn", "resnet"]
)
def test_nni_prunes_to_the_same_shapes(
    python: Path,
    family: str,
    dense: tuple[str | None, str, dict[str, Any]],
    keep_ratio: float,
    tmp_path: Path,
) -> None:
    candidate = channels_only(family, keep_ratio)
    found = pruned_by_nni(python, dense, candidate, config_of(candidate, tmp_path), tmp_path)
    assert found["shapes"] == shapes_of(candidate)
    assert found["outputs"] == [len(candidate.example), 10]


def test_layers_of_every_known_kind_come_out_right(python: Path, tmp_path: Path) -> None:
    model = branching.Branching().eval().requires_grad_(False)
    example = torch.randn(4, 3, 8)
    groups = prove(model, discover(model, example).groups, example).groups
    assert {each.name for each in groups.prunable} >= {"left", "right", "mix", "hidden"}
    plan = plan_by("l1", Evidence(model, groups))
    ratios = {each.name: 0.3 + 0.1 * place for place, each in enumerate(groups.prunable)}
    policy = groups.canonical(Policy.from_keep_ratios(ratios))
    cut = Cut(model, groups, policy, plan.kept_entries(policy))
    candidate = Candidate(plan.carve(policy).eval(), example, cut=cut)
    dense: tuple[str | None, str, dict[str, Any]] = (branching.__file__, "Branching", {})
    found = pruned_by_nni(python, dense, candidate, config_of(candidate, tmp_path), tmp_path)
    assert found["shapes"] == shapes_of(candidate)


def test_tied_layers_need_their_dependency_group(python: Path, tmp_path: Path) -> None:
    candidate = channels_only("digits_cnn")
    config = config_of(candidate, tmp_path)
    for entry in config:
        entry.pop("dependency_group_id", None)
    found = pruned_by_nni(python, DIGITS, candidate, config, tmp_path)
    # Each layer chooses for itself, and only what both lose is removed.
    assert (
        found["shapes"]["stem.weight"][0] > candidate.network.get_parameter("stem.weight").shape[0]
    )
