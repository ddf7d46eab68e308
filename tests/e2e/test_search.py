"""A search on digits from Python: log, front, resume, constraints, rungs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import autoprune
from autoprune.contracts.store import EventKind
from autoprune.errors import AutopruneError, InputError, JobError, RunError
from autoprune.front import Front
from autoprune.report.summary import summarise
from autoprune.run import Run
from autoprune.store.location import STORE_NAME
from autoprune.store.sql import SqlStore
from autoprune.trial import TrialState

CLI = [sys.executable, "-m", "autoprune.cli.main"]


@dataclass(frozen=True)
class Logged:
    kind: str
    trial: int | None
    policy: str


def log_of(directory: Path) -> list[Logged]:
    with SqlStore(directory / STORE_NAME, read_only=True) as store:
        return [
            Logged(x.kind, x.trial, json.dumps(x.body.get("policy")))
            for x in store.events(store.jobs()[0].name)
        ]


def terminal(log: list[Logged]) -> list[int | None]:
    return [x.trial for x in log if x.kind in TrialState.__members__]


def test_a_search_ends_with_a_front_baselines_and_a_report(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    run = autoprune.search(digits_job, tmp_path / "run")
    searched = [x for x in run.completed() if x.searcher in ("nsga2", "tpe")]
    assert len(searched) == 12
    assert {x.searcher for x in run.completed()} == {"dense", "uniform", "random", "nsga2", "tpe"}
    members = run.front().members
    assert members
    assert all(x.report is not None and x.report.weights is not None for x in members)
    for trial in members:
        assert trial.report is not None
        assert (tmp_path / "run" / "files" / str(trial.report.weights)).is_file()
    rows = {row.label: row for row in summarise(run)}
    assert rows["front"].hypervolume == run.front().hypervolume()
    assert rows["front"].hypervolume is not None
    for label in ("uniform", "random", "nsga2", "tpe"):
        assert (rows[label].hypervolume or 0.0) <= rows["front"].hypervolume + 1e-12
    html = (tmp_path / "run" / "report.html").read_text()
    assert all(f">{trial.number}</td>" in html for trial in members)
    # The reference is chance level and the dense cost.
    assert run.front().reference_point == (pytest.approx(0.9), run.dense.evaluation.value("macs"))  # type: ignore[union-attr]


def test_serial_searches_with_one_seed_give_one_log(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    # By a criterion that is not the default, and that looks at images.
    job = {
        **digits_job,
        "space": {"name": "layerwise", "criterion": "taylor"},
        "budget": {"trials": 6},
    }
    logs = []
    for name in ("one", "two"):
        autoprune.search(job, tmp_path / name)
        logs.append(log_of(tmp_path / name))
    assert logs[0] == logs[1]
    autoprune.search({**job, "seed": 1}, tmp_path / "three")
    assert log_of(tmp_path / "three") != logs[0]


def test_a_longer_budget_continues_without_running_a_trial_again(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    whole = {**digits_job, "budget": {"trials": 12}}
    autoprune.search({**digits_job, "budget": {"trials": 5}}, tmp_path / "run")
    before = log_of(tmp_path / "run")
    autoprune.search(whole, tmp_path / "run", resume=True)
    after = log_of(tmp_path / "run")
    assert after[: len(before)] == before
    ended = terminal(after)
    assert len(ended) == len(set(ended)) == 1 + 4 + 4 + 12


def test_a_killed_search_resumes_to_the_uninterrupted_result(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    job = {**digits_job, "budget": {"trials": 30}}
    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump(job))
    process = subprocess.Popen([*CLI, "search", str(path), "--run", str(tmp_path / "killed")])
    wait_for_trials(tmp_path / "killed", 12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = set(terminal(log_of(tmp_path / "killed")))
    assert len(survived) >= 12
    autoprune.search(job, tmp_path / "killed", resume=True)
    autoprune.search(job, tmp_path / "whole")
    ended = terminal(log_of(tmp_path / "killed"))
    assert len(ended) == len(set(ended))
    assert survived <= set(ended)
    # Searchers were replayed: the killed and the whole run asked the same policies in order.
    asked = [
        [x.policy for x in log_of(tmp_path / name) if x.kind == EventKind.ASKED]
        for name in ("killed", "whole")
    ]
    assert asked[0] == asked[1]


@pytest.mark.parametrize("workers", ["serial", pytest.param("2", marks=pytest.mark.ray)])
def test_ctrl_c_ends_within_five_seconds_and_keeps_trials(
    digits_job: Mapping[str, Any], tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump({**digits_job, "budget": {"trials": 500}}))
    command = [*CLI, "search", str(path), "--run", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, "--set", f"resources.workers={workers}"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_trials(tmp_path / "run", 10)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert process.returncode == 130
    assert "--resume" in errors
    run = Run.open(tmp_path / "run")
    assert run.history.close_reason == "interrupted"
    assert len(run.completed()) >= 10


def wait_for_trials(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if len(terminal(log_of(directory))) >= count:
                return
        except (AutopruneError, IndexError):
            pass  # the run is still being made
        time.sleep(0.1)
    raise AssertionError(f"no {count} trials within 90 s")


def test_hard_constraints_are_checked_before_paying(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    job = {**digits_job, "constraints": ["macs <= 0.5 * dense"]}
    run = autoprune.search(job, tmp_path / "run")
    dense = run.dense
    assert dense is not None
    assert dense.evaluation is not None
    bound = 0.5 * dense.evaluation.value("macs")
    infeasible = [x for x in run.history.trials.values() if x.state is TrialState.INFEASIBLE]
    assert infeasible
    for trial in infeasible:
        assert trial.evaluation is not None
        assert "error" not in trial.evaluation.measurements
        assert trial.evaluation.value("macs") > bound
    assert all(x.evaluation.value("macs") <= bound for x in run.front().members)  # type: ignore[union-attr]
    assert sum(x.searcher in ("nsga2", "tpe") for x in run.completed()) == 12


def test_rungs_promote_the_best_and_the_front_is_of_the_last(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    rungs = [digits_job["rungs"][0], {"finetune_steps": 10, "distill": True, "images": 200}]
    run = autoprune.search(
        {**digits_job, "rungs": rungs, "budget": {"trials": 8}}, tmp_path / "run"
    )
    promoted = [x for x in run.completed() if x.rung == 1]
    assert promoted
    for trial in promoted:
        assert trial.parent is not None
        assert run.history.trials[trial.parent].policy == trial.policy
    assert all(x.rung == 1 for x in run.front().members)
    lowest = Front.of([x for x in run.completed() if x.rung == 0 and x.number], run.goals)
    assert {x.policy for x in lowest.members} <= {x.policy for x in promoted}


def test_a_run_is_not_overwritten_and_not_resumed_with_another_job(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    small = {**digits_job, "budget": {"trials": 1}, "baselines": {"searchers": []}}
    autoprune.search(small, tmp_path / "run")
    with pytest.raises(RunError, match="--resume"):
        autoprune.search(small, tmp_path / "run")
    with pytest.raises(RunError, match="seed"):
        autoprune.search({**small, "seed": 7}, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="no run to resume"):
        autoprune.search(small, tmp_path / "nothing", resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"constraints": ["macs <= 10"]}, "cannot be met"),
        ({"space": {"name": "layerwise", "include": ["nothing*"]}}, "matches no group"),
        ({"model": {"import": "json:loads"}}, "json:loads"),
        ({"searchers": ["nsgaa2"]}, "nsga2"),
        ({"objectives": ["error", "latencyy"]}, "latency"),
    ],
)
def test_bad_jobs_start_and_write_nothing(
    digits_job: Mapping[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        autoprune.search({**digits_job, **change}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_problems_are_reported_together(digits_job: Mapping[str, Any]) -> None:
    from autoprune.validation import validated

    bad = {
        **digits_job,
        "budgett": {"trials": 3},
        "seed": -1,
        "searchers": ["nsga2", {"name": "tpe", "startupp": 3}],
        "rungs": [{"imagess": 5}],
        "constraints": ["macs < 3"],
        "model": {"name": "digits_cnn", "checkpoint": "/nowhere.pt"},
    }
    with pytest.raises(JobError) as caught:
        validated(bad)
    paths = {x.path for x in caught.value.violations}
    expected = {"budgett", "seed", "searchers.1.startupp", "rungs.0.imagess", "constraints.0"}
    assert expected <= paths
    text = str(caught.value)
    assert "did you mean 'budget'" in text
    assert "did you mean 'images'" in text
