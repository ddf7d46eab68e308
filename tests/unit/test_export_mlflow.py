"""MLflow: what is logged to a real store, and that nothing is logged twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.errors import ExportError
from autoprune.exporters.mlflow_exporter import Mlflow, _without_password
from autoprune.run import Run
from autoprune.testing import ExporterContract
from tests.hard_run import hard_run
from tests.made_up_run import job, log, stored

mlflow = pytest.importorskip("mlflow")
# Of its own making: SQLAlchemy's loaders, files that it leaves open.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return hard_run(tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(autouse=True)
def tracked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.chdir(place)  # MLflow's own place for artifacts


class TestMlflow(ExporterContract):
    @pytest.fixture(autouse=True)
    def _use(self, hard: Run) -> None:
        self._run = hard

    def make(self) -> RunExporter:
        return Mlflow()

    def source(self) -> Chosen:
        return Chosen(self._run, self._run.trial("1"))


def client() -> Any:
    return mlflow.MlflowClient()


def logged(run: Run, pick: str, path: Path) -> dict[str, Any]:
    Mlflow().export(Chosen(run, run.trial(pick)), path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_trial_is_a_run_within_that_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "every trial")
    run = stored(tmp_path, job(), log(13))
    receipt = logged(run, "knee", tmp_path / "receipt.json")
    experiment = client().get_experiment_by_name("every trial")
    assert receipt["experiment_id"] == experiment.experiment_id
    parent = client().get_run(receipt["run_id"])
    assert parent.data.metrics["hypervolume"] == run.front().hypervolume()
    assert parent.data.params["objectives"] == "error,macs"
    assert [x.path for x in client().list_artifacts(receipt["run_id"])] == ["trials.json"]
    found = client().search_runs([experiment.experiment_id], max_results=100)
    assert len(found) == 1 + len(run.trials())
    for trial in run.trials():
        one = client().get_run(receipt["trial_run_ids"][str(trial.number)])
        assert one.data.tags["mlflow.parentRunId"] == receipt["run_id"]
        assert one.data.tags["autoprune.state"] == trial.state
        assert one.data.params["policy_sha256"] == trial.policy.sha256
        assert one.data.params["searcher"] == trial.searcher
        if trial.report is not None:
            assert one.data.metrics["report.error.value"] == trial.report.value("error")
            assert one.info.status == "FINISHED"
    states = {client().get_run(x).info.status for x in receipt["trial_run_ids"].values()}
    assert states == {"FINISHED", "FAILED", "KILLED"}
    picked = receipt["picked_run_id"]
    assert picked == receipt["trial_run_ids"][str(run.trial("knee").number)]
    names = {x.path for x in client().list_artifacts(picked)}
    assert names == {"card.md", "card.svg"}


def test_nothing_is_logged_twice(
    hard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "twice")
    first = logged(hard, "1", tmp_path / "a.json")
    for pick, name in (("1", "b"), ("4", "c"), ("2", "d")):
        again = logged(hard, pick, tmp_path / f"{name}.json")
        for key in ("run_id", "trial_run_ids"):
            assert again[key] == first[key]
        assert again["picked_run_id"] == first["trial_run_ids"][pick]
    experiment = first["experiment_id"]
    assert len(client().search_runs([experiment])) == 1 + len(hard.trials())
    # A log that has grown is another one, and so is one of which somebody has deleted a part.
    (tmp_path / "more").mkdir()
    more = logged(stored(tmp_path / "more", job(), log(3)), "0", tmp_path / "e.json")
    assert more["run_id"] != first["run_id"]
    client().delete_run(first["trial_run_ids"]["2"])
    assert logged(hard, "1", tmp_path / "f.json")["run_id"] != first["run_id"]


def test_what_fails_half_way_leaves_no_runs(
    hard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "half way")
    count = iter(range(3))
    batch = mlflow.MlflowClient.log_batch

    def failing(*given: Any) -> Any:
        if next(count) == 2:
            raise mlflow.exceptions.MlflowException("full")
        return batch(*given)

    with (
        patch.object(mlflow.MlflowClient, "log_batch", failing),
        pytest.raises(ExportError, match="MLflow: full"),
    ):
        Mlflow().export(Chosen(hard, hard.trial("1")), tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    experiment = client().get_experiment_by_name("half way").experiment_id
    assert client().search_runs([experiment]) == []
    assert len(logged(hard, "1", tmp_path / "a.json")["trial_run_ids"]) == len(hard.trials())


def test_what_mlflow_holds_otherwise_is_noticed(hard: Run, tmp_path: Path) -> None:
    receipt = logged(hard, "1", tmp_path / "a.json")
    client().log_metric(receipt["trial_run_ids"]["4"], "report.error.value", 0.5)
    with pytest.raises(ExportError, match="holds trial 4 otherwise"):
        Mlflow().check(Chosen(hard, hard.trial("1")), tmp_path / "a.json")


def test_where_to_log_must_be_said(
    hard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri, message in (("", "set MLFLOW_TRACKING_URI"), ("nonsense://x", "MLflow: ")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ExportError, match=message):
            Mlflow().export(Chosen(hard, hard.trial("1")), tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_receipts_hold_no_passwords() -> None:
    assert _without_password("postgresql://me:secret@db:5432/x") == "postgresql://db:5432/x"
    assert _without_password("https://me:se@cret@host/x") == "https://host/x"
    assert _without_password("sqlite:////data/x.db") == "sqlite:////data/x.db"
