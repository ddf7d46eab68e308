"""Comparing methods on a network: equal counts, one file that goes on, failures that are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.comparison import arena
from autoprune.comparison.contest import Standing
from autoprune.comparison.entry import Outcome
from autoprune.comparison.ledger import Ledger
from autoprune.comparison.method import Method
from autoprune.comparison.request import Request, compared_job
from autoprune.contracts.criterion import Cost, UnitCriterion
from autoprune.contracts.executor import WorkItem
from autoprune.errors import InputError, JobError, NonFiniteError, RunError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.graph.group import PrunableGroup
from autoprune.preflight import preflight
from autoprune.scoring.evidence import Evidence
from autoprune.trial import Failure, FailureKind, Measurement
from autoprune.validation import validated
from tests.comparing import checkpoint, compared, entry, noise_job

NAMED = ("l1", "taylor")
REQUEST = Request(NAMED, seeds=(0, 1), shares=(0.6, 0.3))


class Undefined(UnitCriterion):
    """Scores that are no numbers."""

    cost: Cost = "weights"

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray:
        return np.full(group.units, np.nan)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return noise_job(tmp_path)


def timeless(path: Path) -> Any:
    """What a file holds but for the seconds."""
    body = json.loads(path.read_text())
    for each in (*body["entries"], *body["scorings"].values()):
        del each["seconds"]
    return body


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"criteria": ()}, "criteria names nothing"),
        ({"criteria": ("l1", "l2", "l1")}, "'l1' twice"),
        ({"seeds": (1, 1)}, "seeds names 1 twice"),
        ({"seeds": (-1,)}, "must not be below 0, given: -1"),
        ({"shares": (1.0,)}, "between 0 and 1, given: 1.0"),
        ({"shares": (math.nan,)}, "given: nan"),
        ({"of": "flops"}, "macs, params, size_bytes, weights; given: 'flops'"),
    ],
)
def test_requests_are_checked(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Request(**{"criteria": ("l1",), "seeds": (0,), "shares": (0.5,), **changed})


def test_all_unknown_names_are_told_before_anything_runs(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    request = Request(("l3", "l1", "tailor"), (0,), (0.5,))
    with pytest.raises(JobError, match="did you mean 'taylor'") as told:
        compared({**job, "data": {"name": "npz", "path": "/no/such.npz"}}, tmp_path / "x", request)
    assert [each.given for each in told.value.violations] == ["l3", "tailor"]
    with pytest.raises(InputError, match="rung 5 does not exist: the job has 2"):
        compared(job, tmp_path / "x", Request(("l1",), (0,), (0.5,), rung=5))


def test_the_job_of_a_comparison_measures_the_error_and_knows_no_constraint(
    job: Mapping[str, Any],
) -> None:
    space = {"name": "layerwise", "criterion": "l2", "round_to": 2}
    raw = {**job, "objectives": ["loss"], "constraints": ["macs <= 3"], "space": space}
    own = compared_job(validated(raw), Request(("l1",), (0,), (0.5,), rung=1))
    assert [each.name for each in own.objectives] == ["loss", "error"]
    assert own.constraints == ()
    assert own.space.options == {"round_to": 2}
    assert [each.finetune_steps for each in own.rungs] == [3]
    assert len(compared_job(validated(job), REQUEST).objectives) == 2


def test_all_criteria_keep_the_same_counts(job: Mapping[str, Any], tmp_path: Path) -> None:
    done = compared(job, tmp_path / "x.json", REQUEST)
    assert done.criteria == ("l1", "taylor", "random")
    assert len(done.rows) == 6
    body = done.to_json()
    json.dumps(body, allow_nan=False)
    for share in (0.6, 0.3):
        rows = [row for row in body["rows"] if row["share"] == share]
        policies = [row["policy"]["groups"] for row in rows]
        assert policies[0] == policies[1] == policies[2] != {}
        assert {row["policy"]["recipe"]["criterion"] for row in rows} == set(done.criteria)
        (costs,) = {x["measured"]["report"]["macs"][0] for row in rows for x in row["seeds"]}
        assert costs == next(x["cost"] for x in body["shares"] if x["share"] == share)
        assert costs <= share * body["dense"]["report"]["macs"][0]
    for row in body["rows"]:
        for each in row["seeds"]:
            value, low, high = each["measured"]["report"]["error"]
            assert low <= value <= high
    networks = {x.outcome.network for x in done.ledger.entries.values() if x.share == 0.3}
    assert len(networks) > 1  # which units stay differs


def test_what_is_measured_is_what_an_evaluator_measures(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    request = Request(("taylor",), (3,), (0.5,), rung=1)
    done = compared({**job, "objectives": ["error", "loss", "macs"]}, tmp_path / "x.json", request)
    mine = done.ledger.entries[Method("taylor"), 0.5, 3].outcome
    raw = {**job, "space": {"name": "layerwise", "criterion": "taylor"}, "seed": 3}
    found = preflight(validated({**raw, "objectives": ["error", "loss", "macs"]}))
    own = replace(found.preparation, dtype=torch.float32)
    evaluator = NetworkEvaluator(job=found.job.to_json(), preparation=own.to_json())
    for split in ("search", "report"):
        item = WorkItem(
            0, Method("taylor").applied_to(done.targets[0].policy), rung=1, split=split, seed=3
        )
        theirs = evaluator.evaluate(item).measurements
        assert {name: each.to_json()[:3] for name, each in theirs.items()} == {
            name: each.to_json()[:3] for name, each in mine.measured[split].items()
        }
    assert mine.wrong is not None
    assert mine.wrong.mean() == mine.measured["report"]["error"].value


def test_bits_of_the_rung_count(job: Mapping[str, Any], tmp_path: Path) -> None:
    rungs = [{"repair_images": 40, "quantize": "int8"}]
    raw = {**job, "rungs": rungs, "objectives": ["error", "size_bytes"]}
    done = compared(raw, tmp_path / "x.json", Request(("l1",), (0,), (0.2,), of="size_bytes"))
    measured = done.ledger.entries[Method("l1"), 0.2, 0].outcome.measured["report"]["size_bytes"]
    (target,) = done.targets
    assert measured.value == target.cost <= 0.2 * target.dense
    assert target.policy.is_quantised


def test_equal_networks_are_evaluated_once(
    job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = counted(monkeypatch)
    done = compared(job, tmp_path / "x.json", Request(("l1",), (0, 1, 2), (0.5,)))
    assert not done.trains
    assert built.count("l1") == 1
    assert built.count("random") == 3
    values = {done.ledger.entries[Method("l1"), 0.5, x].outcome.network for x in (0, 1, 2)}
    assert len(values) == 1
    trained = compared(job, tmp_path / "y.json", Request(("l1",), (0, 1, 2), (0.5,), rung=1))
    assert trained.trains
    assert built.count("l1") == 4


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The criteria of the networks that are built from now on."""
    built: list[str] = []
    build = NetworkEvaluator.network

    def network(self: NetworkEvaluator, item: Any, dtype: Any) -> nn.Module:
        built.append(item.policy.recipe.criterion)
        return build(self, item, dtype)

    monkeypatch.setattr(NetworkEvaluator, "network", network)
    return built


@pytest.mark.parametrize("evaluated", [0, 1, 5, 11])
def test_a_comparison_that_was_killed_goes_on(
    evaluated: int, job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(NAMED, seeds=(0, 1), shares=(0.6, 0.3), rung=1)
    compared(job, tmp_path / "whole.json", request)
    built = counted(monkeypatch)

    def interrupt(standing: Standing) -> None:
        if standing.done == evaluated and " at " in standing.doing:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared(job, tmp_path / "part.json", request, interrupt)
    assert len(built) == evaluated
    assert (tmp_path / "part.json").exists() == (evaluated > 0)
    seen: list[Standing] = []
    compared(job, tmp_path / "part.json", request, seen.append)
    assert len(built) == 12  # none twice
    assert seen[-1].total == 12
    assert seen[0].done == evaluated
    assert timeless(tmp_path / "part.json") == timeless(tmp_path / "whole.json")
    compared(job, tmp_path / "part.json", request)
    assert len(built) == 12


def test_more_may_be_asked_of_the_same_file(
    job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compared(job, tmp_path / "x.json", Request(("l1",), (0,), (0.5,)))
    built = counted(monkeypatch)
    done = compared(job, tmp_path / "x.json", Request(("l2", "l1"), (0, 4), (0.5, 0.7)))
    old, new = ({each.outcome.network for each in x.ledger.entries.values()} for x in (first, done))
    assert old < new
    assert len(built) == len(new - old)
    assert {row.method.criterion for row in done.rows} == {"l1", "l2", "random"}
    assert len(done.ledger.entries) == 12
    fewer = compared(job, tmp_path / "x.json", Request(("l1",), (0,), (0.5,)))
    assert [str(row.method) for row in fewer.rows if str(row.method) == "l1"] == ["l1"]
    assert len(fewer.rows) == 2
    assert len(fewer.ledger.entries) == 12


@pytest.mark.parametrize(
    ("changed", "request_", "words"),
    [
        ({"rungs": [{"repair_images": 41}]}, {}, "rung.repair_images is 40 there and 41 here"),
        ({"space": {"name": "layerwise", "round_to": 2}}, {}, "round_to is not given there and 2"),
        ({"objectives": ["error"]}, {}, "objectives.1 is .*macs.* there and not given here"),
        ({}, {"of": "params"}, "of is macs there and params here"),
        ({}, {"rung": 1}, "rung.finetune_steps is null there and 3 here"),
    ],
)
def test_a_file_of_another_comparison_is_refused(
    changed: dict[str, Any],
    request_: dict[str, Any],
    words: str,
    job: Mapping[str, Any],
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.json"
    compared(job, path, Request(("l1",), (0,), (0.5,)))
    before = path.read_bytes()
    with pytest.raises(RunError, match=words) as told:
        compared({**job, **changed}, path, Request(("l1",), (0,), (0.5,), **request_))
    assert "--out" in str(told.value)
    assert path.read_bytes() == before


def test_what_nothing_follows_from_may_differ_and_weights_may_not(
    job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    compared(job, path, Request(("l1",), (0,), (0.5,)))
    built = counted(monkeypatch)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(Path(job["model"]["checkpoint"]).read_bytes())
    model = {**job["model"], "checkpoint": str(moved)}
    same = {"name": "other", "seed": 9, "searchers": ["tpe"], "model": model}
    space = {"space": {"name": "layerwise", "criterion": "l2"}}
    compared({**job, **same, **space}, path, Request(("l1",), (0,), (0.5,)))
    assert built == []
    checkpoint(moved, seed=1)
    with pytest.raises(RunError, match=r"weights is [0-9a-f]{12}… there and"):
        compared({**job, "model": model}, path, Request(("l1",), (0,), (0.5,)))


def test_files_that_cannot_be_used(job: Mapping[str, Any], tmp_path: Path) -> None:
    request = Request(("l1",), (0,), (0.5,))
    (tmp_path / "text").write_text("mine")
    (tmp_path / "list").write_text("[]")
    for name in ("text", "list"):
        with pytest.raises(RunError, match="is no comparison that this version has written"):
            compared(job, tmp_path / name, request)
    with pytest.raises(RunError, match="is a directory"):
        compared(job, tmp_path, request)
    with pytest.raises(RunError, match="no directory that may be written to"):
        compared(job, tmp_path / "text" / "x.json", request)
    compared(job, tmp_path / "new" / "x.json", request)
    assert (tmp_path / "text").read_text() == "mine"
    assert [x.name for x in (tmp_path / "new").iterdir()] == ["x.json"]


def test_two_writers_of_one_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    one, other = Ledger.open(path, {"of": "macs"}), Ledger.open(path, {"of": "macs"})
    one.add(entry("l1", 0.5, 0, 0.1, [1]))
    with pytest.raises(RunError, match="was changed or removed meanwhile"):
        other.add(entry("l2", 0.5, 0, 0.1, [2]))
    again = Ledger.open(path, {"of": "macs"})
    assert list(again.entries) == [(Method("l1"), 0.5, 0)]
    path.unlink()
    with pytest.raises(RunError, match="was changed or removed meanwhile"):
        one.write()


def test_outcomes_come_back_as_they_were() -> None:
    wrong = np.random.default_rng(0).random(37) < 0.5
    measured = {"search": {"error": Measurement(0.1, 0.05, 0.2)}, "report": {}}
    for outcome in (
        Outcome("abc", measured, wrong, 1.5),
        Outcome(failure=Failure(FailureKind.CRASH, "no")),
    ):
        again = Outcome.from_json(json.loads(json.dumps(outcome.to_json())))
        assert again.to_json() == outcome.to_json()
        if outcome.wrong is not None:
            assert np.array_equal(again.wrong, outcome.wrong)
    assert not Outcome(failure=Failure(FailureKind.CRASH, "no")).is_final
    assert Outcome(failure=Failure(FailureKind.NONFINITE, "no")).is_final


def test_failures_are_kept_shown_and_tried_again_where_that_may_help(
    job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, tried = NetworkEvaluator.network, []

    def network(self: NetworkEvaluator, item: Any, dtype: Any) -> nn.Module:
        tried.append(item.policy.recipe.criterion)
        if tried[-1] == "l1":
            raise NonFiniteError("loss is nan at step 2")
        if tried.count("taylor") == 1 == tried[-1].count("taylor"):
            raise RuntimeError("a cosmic ray")
        return build(self, item, dtype)

    monkeypatch.setattr(NetworkEvaluator, "network", network)
    path, request = tmp_path / "x.json", Request(NAMED, (0,), (0.5, 0.7))
    done = compared(job, path, request)
    kinds = {
        (str(key[0]), *key[1:]): str(each.outcome.failure.kind)
        for key, each in done.ledger.entries.items()
        if each.outcome.failure
    }
    assert kinds == {
        ("l1", 0.5, 0): "NONFINITE",
        ("l1", 0.7, 0): "NONFINITE",
        ("taylor", 0.5, 0): "CRASH",
    }
    (row,) = (row for row in done.rows if row.method == Method("l1") and row.share == 0.5)
    assert (row.rank, row.errors) == (None, {})
    assert len(tried) == 6
    again = compared(job, path, request)
    assert tried[6:] == ["taylor"]
    assert again.ledger.entries[Method("taylor"), 0.5, 0].outcome.failure is None
    assert list(again.ledger.entries) == list(done.ledger.entries)


def test_a_criterion_that_fails_costs_no_other(job: Mapping[str, Any], tmp_path: Path) -> None:
    broken = "tests.unit.test_comparison:Undefined"
    done = compared(job, tmp_path / "x.json", Request((broken, "l1"), (0, 1), (0.5,)))
    failures = [
        x.outcome.failure for x in done.ledger.entries.values() if x.method == Method(broken)
    ]
    assert [x.kind for x in failures if x] == [FailureKind.INVALID] * 2
    assert "nan" in str(failures[0])
    assert broken not in done.ledger.scorings
    assert {row.method.criterion for row in done.rows if row.errors} == {"l1", "random"}


def test_seconds_are_measured_alone_once(
    job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, bool]] = []
    score = arena.Arena.score

    def noted(self: arena.Arena, criterion: str, seed: int, *, alone: bool) -> Any:
        before = set(vars(self.evidence))
        found = score(self, criterion, seed, alone=alone)
        asked.append((criterion, seed, alone))
        if alone:
            assert set(vars(self.evidence)) == before  # it shared nothing
        return found

    monkeypatch.setattr(arena.Arena, "score", noted)
    compared(job, tmp_path / "x.json", Request(("taylor",), (0, 1), (0.5,)))
    assert asked == [
        ("taylor", 0, True),
        ("random", 0, True),
        ("taylor", 1, False),
        ("random", 1, False),
    ]
