"""A search with a searcher that is trained first, and a warm start, from beginning to export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import autoprune
from autoprune.contracts.store import EventKind
from autoprune.errors import RunError
from autoprune.run import Run
from autoprune.store.location import STORE_NAME
from autoprune.store.sql import SqlStore

SEARCHERS = [{"name": "metapruning", "steps": 20, "slice_steps": 10, "batch_size": 16}, "nsga2"]


def kinds(directory: Path) -> list[EventKind]:
    with SqlStore(directory / STORE_NAME, read_only=True) as store:
        return [each.kind for each in store.events(store.jobs()[0].name)]


@pytest.mark.parametrize(
    "workers", ["serial", pytest.param(1, marks=pytest.mark.ray, id="over Ray")]
)
def test_generated_networks_are_searched_reported_and_exported(
    digits_job: Mapping[str, Any], tmp_path: Path, workers: str | int
) -> None:
    job = {
        **digits_job,
        "searchers": SEARCHERS,
        "baselines": {"searchers": []},
        "budget": {"trials": 18},
        "resources": {"workers": workers, "device": "cpu"},
    }
    run = autoprune.search(job, tmp_path / "run")
    assert kinds(tmp_path / "run").count(EventKind.TRAINED) == 2
    generated = [x for x in run.completed() if x.searcher == "metapruning"]
    assert generated
    nets = {each.policy.recipe.pruning_net for each in generated}
    assert len(nets) == 1
    net = nets.pop()
    assert net is not None
    assert (tmp_path / "run" / "files" / net).is_file()
    assert all(x.policy.recipe.pruning_net is None for x in run.completed() if x not in generated)
    # Reported or not, a trial leaves with the weights that were measured.
    ranked = sorted(generated, key=lambda each: each.report is None)
    for trial in {ranked[0].number: ranked[0], ranked[-1].number: ranked[-1]}.values():
        path = tmp_path / f"{trial.number}.safetensors"
        run.export(trial, "torch", path)
        assert autoprune.load(path) is not None


def test_a_warm_start_tries_the_earlier_front_first(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    first = autoprune.search(digits_job, tmp_path / "first")
    again = autoprune.search(digits_job, tmp_path / "again", warm_start=tmp_path / "first")
    seeds = [x for x in again.history.trials.values() if x.searcher == "warm_start"]
    front = {x.policy.sha256 for x in first.front().members if not x.policy.is_dense}
    assert {x.policy.sha256 for x in seeds} == front
    assert [x.number for x in seeds] == list(range(1, len(front) + 1))
    searched = [x for x in again.completed() if x.searcher in ("nsga2", "tpe", "warm_start")]
    assert len(searched) == 12
    assert "warm_start" in (tmp_path / "again" / "report.html").read_text()
    resumed = autoprune.search(
        {**digits_job, "budget": {"trials": 14}}, tmp_path / "again", resume=True
    )
    assert isinstance(resumed, Run)
    with pytest.raises(RunError, match="begun already"):
        autoprune.search(digits_job, tmp_path / "again", resume=True, warm_start=tmp_path / "first")
    with pytest.raises(RunError, match="is no run"):
        autoprune.search(digits_job, tmp_path / "third", warm_start=tmp_path / "nothing")
    assert not (tmp_path / "third").exists()
