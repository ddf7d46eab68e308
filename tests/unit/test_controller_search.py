"""The controller with searchers: attribution, baselines, training, resume, warm starts."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoprune import plugins
from autoprune.contracts.searcher import Searcher
from autoprune.contracts.store import EventKind
from autoprune.contracts.training import TrainingProgress, TrainingRequest
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing.problem import small_problem
from autoprune.trial import Trial
from tests.searching import UNITS, SmallEvaluator, asked, small_job, small_search

HERE = "tests.unit.test_controller_search"


class Diligent(Searcher):
    """Needs thirty steps of training, then proposes at random and keeps what it is told."""

    def __init__(self, problem: Any, *, seed: int = 0, fails: bool = False) -> None:
        super().__init__(problem, seed=seed)
        self.fails = fails
        self.net: str | None = None
        self.heard: list[int] = []
        self.count = 0

    @property
    def training(self) -> TrainingRequest | None:
        return None if self.net else TrainingRequest(30, {"fails": self.fails})

    def trained(self, progress: TrainingProgress | None) -> None:
        if progress is not None and progress.is_complete:
            self.net = progress.checkpoint

    def ask(self, count: int) -> Sequence[Policy]:
        assert self.net == "net-30", "asked before it was trained"
        self.count += 1
        kept = {"conv1": 1.0 - self.count % 12 / 16, "conv2": 1.0 - self.count // 12 / 24}
        return [Policy.from_keep_ratios(kept)]

    def tell(self, trial: Trial) -> None:
        self.heard.append(trial.number)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net, "heard": list(self.heard), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.net, self.heard, self.count = state["net"], list(state["heard"]), state["count"]


class Clumsy(Diligent):
    """Raises when it is asked for the fourth time."""

    training = None  # type: ignore[assignment]

    def ask(self, count: int) -> Sequence[Policy]:
        self.net = "net-30"
        if self.count == 3:
            raise RuntimeError("clumsy")
        return super().ask(count)


def test_trials_carry_the_label_of_their_author(tmp_path: Path) -> None:
    job = small_job(searchers=["random", "nsga2", {"name": "nsga2", "population": 8}])
    _, events = small_search(job, tmp_path / "log")
    labels = [label for label, _ in asked(events)]
    # The baseline has the plain name; the searcher of the same kind is told from it.
    assert labels.count("random") == 3
    assert set(labels) == {"dense", "random", "random-2", "nsga2", "nsga2-2"}
    assert len(labels) == 1 + 3 + 30


def test_searchers_hear_of_the_dense_network_and_each_other_but_not_of_baselines(
    tmp_path: Path,
) -> None:
    job = small_job(searchers=[f"{HERE}:Diligent"], budget={"trials": 6})
    state, events = small_search(job, tmp_path / "log")
    searcher = state.roster.members[state.roster.head].searcher
    assert isinstance(searcher, Diligent)
    own = [x.trial for x in events if x.kind == "ASKED" and "Diligent" in x.body["searcher"]]
    assert searcher.heard == [0, *own]
    assert len(own) == 6


def test_training_comes_first_in_slices_that_are_logged(tmp_path: Path) -> None:
    job = small_job(searchers=[f"{HERE}:Diligent"], budget={"trials": 4})
    _, events = small_search(job, tmp_path / "log")
    slices = [x.body["progress"] for x in events if x.kind is EventKind.TRAINED]
    assert [x["done"] for x in slices] == [10, 20, 30]
    seqs = {x.kind: x.seq for x in reversed(events)}
    assert seqs[EventKind.TRAINED] < min(
        x.seq for x in events if x.kind == "ASKED" and "Diligent" in x.body["searcher"]
    )


def test_training_that_fails_retires_its_searcher_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    diligent = {"name": f"{HERE}:Diligent", "fails": True}
    job = small_job(searchers=[diligent, "nsga2"], budget={"trials": 8})
    _, events = small_search(job, tmp_path / "log")
    failures = [x.body["failure"] for x in events if x.kind is EventKind.TRAINED]
    assert [x["message"] for x in failures] == ["RuntimeError: out of luck"]
    assert "could not be trained" in caplog.text
    assert [label for label, _ in asked(events)].count("nsga2") == 8


def test_a_searcher_that_raises_is_retired_and_the_portfolio_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = small_job(searchers=[f"{HERE}:Clumsy", "nsga2"])
    _, events = small_search(job, tmp_path / "log")
    labels = [label for label, _ in asked(events)]
    assert labels.count(f"{HERE}:Clumsy") <= 3
    assert labels.count("nsga2") >= 27
    assert "raised and is retired" in caplog.text


@pytest.mark.parametrize("searchers", [["nsga2", "tpe"], [f"{HERE}:Diligent"]])
@pytest.mark.parametrize("dies_after", [2, 17, 33])
def test_a_resumed_search_repeats_the_uninterrupted_one(
    tmp_path: Path, searchers: list[str], dies_after: int
) -> None:
    job = small_job(searchers=searchers)
    _, whole = small_search(job, tmp_path / "whole")
    small_search(job, tmp_path / "cut", evaluator=SmallEvaluator(dies_after=dies_after))
    _, cut = small_search(job, tmp_path / "cut")
    assert asked(cut) == asked(whole)


@pytest.mark.parametrize("name", plugins.names("searcher"))
def test_every_searcher_repeats_its_log_also_from_a_snapshot(tmp_path: Path, name: str) -> None:
    options = {"metapruning": {"steps": 30}, "gp": {"startup": 25, "modelled": 30}}
    job = small_job(searchers=[{"name": name, **options.get(name, {})}])
    logs = [asked(small_search(job, tmp_path / each)[1]) for each in ("one", "two")]
    assert logs[0] == logs[1]
    assert len(logs[0]) > 20
    # Closing takes a snapshot, so the second session starts from the state of the first.
    small_search(job, tmp_path / "cut", evaluator=SmallEvaluator(dies_after=28))
    _, cut = small_search(job, tmp_path / "cut")
    assert asked(cut) == logs[0]


def test_a_snapshot_spares_the_calls_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = small_job(searchers=["nsga2", "tpe"], budget={"trials": 120})
    small_search(job, tmp_path / "cut", evaluator=SmallEvaluator(dies_after=90))
    connection = sqlite3.connect(tmp_path / "cut")
    snapshots = connection.execute("SELECT seq FROM snapshot ORDER BY seq").fetchall()
    assert len(snapshots) == 2
    # Were the calls before the snapshot made again, the changed proposal would be noticed.
    connection.execute(
        "UPDATE event SET body = replace(body, '\"conv1\"', '\"conv2\"') WHERE seq < ? "
        "AND kind = 'ASKED' AND body LIKE '%nsga2%'",
        (snapshots[0][0] - 10,),
    )
    connection.commit()
    connection.close()
    small_search(job, tmp_path / "cut")
    assert "does not repeat" not in caplog.text


def test_damaged_snapshots_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = small_job(searchers=["nsga2", "tpe"], budget={"trials": 70})
    _, whole = small_search(job, tmp_path / "whole")
    small_search(job, tmp_path / "cut", evaluator=SmallEvaluator(dies_after=60))
    connection = sqlite3.connect(tmp_path / "cut")
    connection.execute("UPDATE snapshot SET body = substr(body, 1, 200)")
    connection.commit()
    connection.close()
    with caplog.at_level(logging.WARNING):
        _, cut = small_search(job, tmp_path / "cut")
    assert caplog.text.count("damaged") == 2
    assert asked(cut) == asked(whole)


def test_seeds_are_tried_first_and_told(tmp_path: Path) -> None:
    groups = small_problem(UNITS).groups
    seeds = [
        groups.canonical(Policy.from_keep_ratios({"conv1": ratio, "conv3": ratio}))
        for ratio in (0.25, 0.5)
    ]
    job = small_job(searchers=[f"{HERE}:Diligent"], budget={"trials": 5})
    state, events = small_search(job, tmp_path / "log", seeds=seeds)
    labels = [label for label, _ in asked(events)]
    assert labels[:3] == ["dense", "warm_start", "warm_start"]
    assert [Policy.from_json(body) for _, body in asked(events)[1:3]] == seeds
    assert labels.count(f"{HERE}:Diligent") == 3, "warm starts count against the budget"
    searcher = state.roster.members[state.roster.head].searcher
    assert isinstance(searcher, Diligent)
    assert searcher.heard[:3] == [0, 1, 2]


@pytest.mark.parametrize("name", ["portfolio", "metapruning"])
def test_what_learns_from_others_or_is_trained_is_no_baseline(tmp_path: Path, name: str) -> None:
    job = small_job(baselines={"searchers": [name], "trials": 3})
    with pytest.raises(PluginError, match="cannot be a baseline"):
        small_search(job, tmp_path / "log")
