"""A run in a directory: the suite of every run, on logs that differ in what is hard about them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoprune.contracts.store import Entry
from autoprune.errors import InputError, RunError
from autoprune.front import Front
from autoprune.graph.block import Block
from autoprune.graph.cost import CostTable
from autoprune.graph.group import GroupTable
from autoprune.graph.network import NetworkGraph
from autoprune.policy import Policy
from autoprune.run import Run
from autoprune.store import entries
from autoprune.testing import RunContract
from autoprune.trial import TrialState
from autoprune.trial_json import dominators
from tests.made_up_run import PROBLEM, evaluation, job, log, stored


class TestPlain(RunContract):
    @pytest.fixture
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Run:
        return stored(tmp_path_factory.mktemp("run"), job(), log())


class TestThreeObjectivesOnTwoRungs(RunContract):
    @pytest.fixture
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Run:
        body = job(("error", "size_bytes", "macs"), rungs=2)
        return stored(tmp_path_factory.mktemp("run"), body, log(rungs=2))


class TestSignificantAndUnreported(RunContract):
    @pytest.fixture
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Run:
        body = {**job(), "significance": 0.05}
        return stored(tmp_path_factory.mktemp("run"), body, log(is_reported=False))


def with_speed(made: Sequence[Entry]) -> list[Entry]:
    """Return a log whose trials are measured in something to maximise as well."""
    found = []
    for each in made:
        body = dict(each.body)
        if "evaluation" in body:
            measured = body["evaluation"]["measurements"]
            speed = [1.0 / measured["error"][0] + measured["macs"][0] / 1e5, None, None]
            measured = {**measured, "speed": speed}
            body["evaluation"] = {**body["evaluation"], "measurements": measured}
        found.append(Entry(each.kind, each.trial, each.attempt, body))
    return found


class TestSomethingToMaximise(RunContract):
    @pytest.fixture
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Run:
        body = {**job(), "objectives": [{"name": "tests.indexing:Speed"}, "macs"]}
        return stored(tmp_path_factory.mktemp("run"), body, with_speed(log()))


def test_of_groups_within_dropped_blocks_nothing_is_left(tmp_path: Path) -> None:
    block = Block("middle", ("conv2", "conv3"), "conv3", (0, 0))
    groups = GroupTable(PROBLEM.groups.groups, [block], PROBLEM.groups.layers)
    graph = NetworkGraph(groups, CostTable(PROBLEM.costs.rows, groups))
    policy = groups.canonical(Policy(dropped=frozenset({"middle"})))
    made = [*log(0)[:3], entries.asked(1, policy, "tpe", rung=0, parent=None, batch=0)]
    made.append(entries.completed(1, evaluation(Policy(), 1), attempt=1))
    run = stored(tmp_path, job(), made, graph)
    body = run.show_json(run.trial("1"))
    gone = groups.vanishing(policy)
    assert body["dropped"] == ["middle"]
    assert gone
    for name, (kept, units) in body["units"].items():
        assert (kept == 0) == (name in gone)
        assert kept in (0, units)


def test_a_run_that_has_hardly_begun_can_be_asked_everything(tmp_path: Path) -> None:
    for length in range(3):
        place = tmp_path / str(length)
        place.mkdir()
        run = stored(place, job(), log()[:length])
        assert run.completed() == run.select() == run.front().members == []
        assert run.front_json()["hypervolume"] is None
        assert [each.reference for each in run.goals] == [None, None]
        assert (run.dense is None) == (length < 2)
        with pytest.raises(InputError, match="front is empty"):
            run.trial("knee")
        with pytest.raises(RunError, match="does not exist"):
            run.trial("7")


def test_a_trial_that_breaks_a_constraint_is_dominated_only_by_what_is_better(
    tmp_path: Path,
) -> None:
    made = log(30, is_reported=False)
    number = 3
    for index, each in enumerate(made):
        if each.kind == "COMPLETED" and each.trial == number:
            body = {**each.body["evaluation"], "violations": {"macs <= 1": 3.0}}
            made[index] = Entry(each.kind, each.trial, each.attempt, {"evaluation": body})
    run = stored(tmp_path, job(), made)
    trial = run.trial(str(number))
    others = dominators(trial, run.front().members, run.goals)
    free = Front.of([trial, *run.front().members], run.goals)
    assert trial not in run.front().members
    assert trial.state is TrialState.COMPLETED
    assert 0 < len(others) < len(run.front().members)
    assert number not in {each.number for each in free.members}
    assert run.show_json(trial)["dominated_by"] == others


def test_reading_a_run_imports_no_torch(tmp_path: Path) -> None:
    stored(tmp_path, job(), log())
    look = (
        "import sys, json; from pathlib import Path; from autoprune.run import Run; "
        f"run = Run.open(Path({str(tmp_path)!r})); run.front_json(); "
        "run.show_json(run.trial('knee')); run.forecast_errors(); "
        "print(json.dumps(sorted({'torch', 'grpc', 'ray'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
