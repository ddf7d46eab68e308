"""Objectives beyond error and macs, as a user meets them: groups, own ones, bad input."""

from __future__ import annotations

import json
import random
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from tests.commands import command

MINE = '''
from autoprune.contracts.objective import Objective, Stage
from autoprune.trial import Measurement


class Confidence(Objective):
    """Mean probability of the top class."""

    name, unit, goal, stage = "confidence", "share", "max", Stage.PREDICTIONS

    def measure(self, subject):
        return Measurement(float(subject.predictions.logits.softmax(1).amax(1).mean()))

    def reference(self, dense, num_classes):
        return 1 / num_classes


class Nothing(Confidence):
    """A value that is none."""

    name = "nothing"

    def measure(self, subject):
        return Measurement(float("nan"))
'''


def write_adult(directory: Path) -> None:
    """Write rows in the form of UCI Adult, in which age and sex decide what is earned."""
    draw = random.Random(0)

    def row(end: str) -> str:
        age, sex = draw.randint(20, 60), draw.choice(["Male", "Female"])
        race = draw.choice(["White", "White", "Black"])
        earns = ">50K" if age + (10 if sex == "Male" else 0) > 45 else "<=50K"
        middle = f"Private, 1, HS-grad, 9, Divorced, Sales, Unmarried, {race}, {sex}"
        return f"{age}, {middle}, 0, 0, {draw.randint(20, 60)}, Peru, {earns}{end}"

    (directory / "adult.data").write_text("\n".join(row("") for _ in range(300)))
    (directory / "adult.test").write_text("|\n" + "\n".join(row(".") for _ in range(600)))


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A search of seconds in which groups matter."""
    write_adult(tmp_path)
    (tmp_path / "own_objectives.py").write_text(MINE)
    return {
        "model": {"name": "mlp"},
        "data": {"name": "adult", "path": str(tmp_path), "groups": ["sex", "sex & race"]},
        "objectives": [
            "error",
            "macs",
            "worst_group_error",
            "equalized_odds",
            "prune_disparity",
            {"import": "own_objectives:Confidence"},
        ],
        "constraints": [{"soft": "accuracy_gap <= 0.0"}, "churn <= 0.99"],
        "searchers": ["nsga2"],
        "baselines": {"searchers": []},
        "rungs": [{"repair": "ridge", "finetune_steps": 30}],
        "budget": {"trials": 6},
        "resources": {"workers": "serial", "device": "cpu"},
    }


def search(directory: Path, job: dict[str, Any]) -> CompletedProcess[str]:
    (directory / "job.yaml").write_text(yaml.safe_dump(job))
    return command("search", "job.yaml", "--run", "run", cwd=directory)


def test_groups_and_an_objective_of_ones_own(tmp_path: Path, job: dict[str, Any]) -> None:
    done = search(tmp_path, job)
    assert done.returncode == 0, done.stderr
    assert "misses accuracy_gap <= 0.0" in done.stdout
    body = json.loads(command("front", "run", "--format", "json", cwd=tmp_path).stdout)
    assert [(each["name"], each["goal"]) for each in body["objectives"]][2:] == [
        ("worst_group_error", "min"),
        ("equalized_odds", "min"),
        ("prune_disparity", "min"),
        ("confidence", "max"),
    ]
    assert body["hypervolume"] is not None
    for trial in body["trials"]:
        values = {name: each["value"] for name, each in trial["objectives"].items()}
        assert values["worst_group_error"] >= values["error"]
        assert 0.5 <= values["confidence"] <= 1
        assert trial["objectives"]["worst_group_error"]["low"] is not None
    shown = command("show", "run", "knee", cwd=tmp_path).stdout
    for group in ("sex=Female", "sex=Male & race=Black"):
        assert group in shown
    report = (tmp_path / "run" / "report.html").read_text()
    assert "group by group" in report
    assert "sex=Male &amp; race=Black" in report


def test_a_value_that_is_no_number_ends_the_search_with_its_name(
    tmp_path: Path, job: dict[str, Any]
) -> None:
    own = {"objectives": ["error", {"import": "own_objectives:Nothing"}], "constraints": []}
    done = search(tmp_path, {**job, **own})
    assert done.returncode == 1
    assert "the dense network cannot be evaluated: nothing is nan" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objectives": ["error", {"name": "latency", "backend": "tensorrt"}]}, "openvino"),
        ({"objectives": ["error", {"name": "latency", "device": "cuda"}]}, "latency_ms cannot"),
        ({"objectives": ["error", {"import": "own_objectives:Absent"}]}, "own_objectives:Absent"),
        ({"objectives": ["error", {"name": "adversarial_error", "epsilon": -1}]}, "above 0"),
        ({"data": {"name": "digits", "groups": "sexe"}}, "allowed: class"),
        ({"data": {"name": "digits", "attributes": {"a": "no.npy"}}}, "no.npy cannot be read"),
        ({"constraints": ["macs <= 1"]}, "cannot be met"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    tmp_path: Path, job: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    plain = {"objectives": ["error", "macs"], "constraints": []}
    done = search(tmp_path, {**job, **plain, **change})
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "run").exists()
