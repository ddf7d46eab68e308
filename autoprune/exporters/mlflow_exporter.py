"""MLflow: a run that holds every trial as a run of its own, and a receipt of where they are.

Where to is MLflow's own affair: MLFLOW_TRACKING_URI names the store or the server, as
`sqlite:////data/mlflow.db`, and MLFLOW_EXPERIMENT_NAME the experiment; it is called as the job
without. Logging the same log again logs nothing twice: it is recognised by its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.errors import ExportError
from autoprune.exporters._run_facts import origin
from autoprune.exporters._trial_rows import Cell, table_of
from autoprune.exporters.card_exporter import Card
from autoprune.exporters.json_exporter import Json
from autoprune.seal import check_seal
from autoprune.trial import TrialState

_URI, _EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_STATUSES = {"COMPLETED": "FINISHED", "FAILED": "FAILED", "RUNNING": "RUNNING"}
_MEASURED = ("search.", "report.", "costs.", "seconds", "report_seconds", "peak_bytes")
_PARAMS = ("searcher", "rung", "parent", "teacher", "attempts", "policy_sha256", "device")
_TAGS = ("job", "state", "failure_kind", "on_front")
_LONGEST = 500  # of what MLflow takes as a value, in older servers


@dataclass(frozen=True, slots=True)
class _Entry:
    """What MLflow holds of a trial."""

    number: int
    status: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]


class Mlflow(RunExporter):
    """Runs in MLflow: one of the job, and in it one of every trial; the file is a receipt.

    Params say what a trial is, metrics what was measured on both splits (`search.error.value`,
    `report.error.low`), tags its state. The job's run has all trials as `trials.json`, the
    chosen trial's its model card.
    """

    suffix: ClassVar[str] = ".json"
    logs_elsewhere: ClassVar[bool] = True

    def write(self, source: Chosen, path: Path) -> None:
        """Log what is not there yet, and write the receipt.

        Raises `ExportError` without the `mlflow` extra, without MLFLOW_TRACKING_URI, and where
        MLflow refuses.
        """
        uri, client = _client()
        with _refusals():
            experiment = _experiment(client, source.run.job.name)
            parent, runs = _known(client, experiment, source)
            if not runs:
                parent = _logged(client, experiment, source)
                runs = _runs(client, experiment, parent)
            _log_choice(client, source, runs[source.trial.number])
        receipt = {
            "provenance": json.loads(self.stamped(origin(source))),
            "tracking_uri": _without_password(uri),
            "experiment_id": experiment,
            "run_id": parent,
            "picked_run_id": runs[source.trial.number],
            "trial_run_ids": {str(number): runs[number] for number in sorted(runs)},
        }
        path.write_text(json.dumps(receipt, indent=1), encoding="ascii")

    def check(self, source: Chosen, path: Path) -> float:
        """Ask MLflow for every run of the receipt, and compare it with its trial.

        Raises `ExportError` at a difference.
        """
        check_seal(path)
        _, client = _client()
        found = json.loads(path.read_text(encoding="ascii"))["trial_run_ids"]
        entries = list(_entries(source))
        if list(found) != [str(each.number) for each in entries]:
            raise ExportError(f"MLflow holds {len(found)} trials instead of {len(entries)}")
        for each in entries:
            with _refusals():
                run = client.get_run(found[str(each.number)])
            said = (run.info.status, run.data.metrics, run.data.params)
            if said != (each.status, each.metrics, each.params):
                raise ExportError(f"MLflow holds trial {each.number} otherwise: {said}")
        return 0.0


def _client() -> tuple[str, Any]:
    """Return where MLflow logs, and its client."""
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise ExportError(f"{error}; install the extra: pip install 'autoprune[mlflow]'") from error
    uri = os.environ.get(_URI, "")
    if not uri:
        raise ExportError(
            f"set {_URI} to where MLflow logs, as in sqlite:////data/mlflow.db or "
            "http://localhost:5000"
        )
    with _refusals():
        return uri, MlflowClient(uri)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what MLflow raises into an `ExportError`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise ExportError(f"MLflow: {error}") from error


def _experiment(client: Any, job: str) -> str:
    name = os.environ.get(_EXPERIMENT) or job
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _entries(source: Chosen) -> Iterator[_Entry]:
    """Yield what is logged of every trial, from the table of all trials."""
    table = table_of(source)
    names = [each.name for each in table.columns]
    for cells in table.rows:
        row: dict[str, Cell] = dict(zip(names, cells, strict=True))
        ratios = [x for name, x in row.items() if name.startswith("keep_ratio.")]
        bits = [x for name, x in row.items() if name.startswith("bits.") and x is not None]
        kept = [float(x) for x in ratios if x is not None]
        params = {
            **{name: _said(row[name]) for name in _PARAMS if row[name] is not None},
            "mean_keep_ratio": f"{sum(kept) / len(kept):.4f}" if kept else "1",
            "weight_bits": _said(",".join(f"{bits.count(x)}x{x}" for x in dict.fromkeys(bits))),
            "dropped": _said(row["dropped"]),
        }
        metrics = {
            name: float(cell)
            for name, cell in row.items()
            if name.startswith(_MEASURED) and cell is not None
        }
        tags = {f"autoprune.{name}": _said(row[name]) for name in _TAGS if row[name] is not None}
        status = _STATUSES.get(str(row["state"]), "KILLED")
        yield _Entry(int(row["trial"] or 0), status, metrics, params, tags)


def _said(cell: Cell) -> str:
    text = str(cell).lower() if isinstance(cell, bool) else str(cell)
    return text[:_LONGEST]


def _fingerprint(source: Chosen) -> str:
    """Return the hash of everything that is logged, whichever trial is chosen."""
    body = [repr(each) for each in _entries(source)]
    spec = json.dumps(source.run.job.to_json(), sort_keys=True)
    return hashlib.sha256("\n".join([spec, *body]).encode()).hexdigest()


def _known(client: Any, experiment: str, source: Chosen) -> tuple[str, dict[int, str]]:
    """Return the run that holds the same log already, and those of its trials; "" without any.

    Where somebody has deleted some of them it does not count.
    """
    wanted = f"tags.`autoprune.log_sha256` = '{_fingerprint(source)}'"
    finished = f"{wanted} and attributes.status = 'FINISHED'"
    for each in client.search_runs([experiment], finished):
        runs = _runs(client, experiment, each.info.run_id)
        if len(runs) == len(source.run.trials()):
            return each.info.run_id, runs
    return "", {}


def _logged(client: Any, experiment: str, source: Chosen) -> str:
    """Log the job and all of its trials; on failure nothing of it stays."""
    from mlflow.entities import Metric, Param

    job = source.run.job
    tags = {"autoprune.job": job.name, "autoprune.log_sha256": _fingerprint(source)}
    parent = str(client.create_run(experiment, tags=tags, run_name=job.name).info.run_id)
    made = [parent]
    try:
        client.log_param(parent, "model", _said(job.model.title))
        client.log_param(parent, "seed", job.seed)
        client.log_param(parent, "objectives", _said(",".join(x.name for x in source.run.goals)))
        volume = source.run.front().hypervolume()
        if volume is not None:
            client.log_metric(parent, "hypervolume", volume)
        with tempfile.TemporaryDirectory() as room:
            written = Json().export(source, Path(room) / "trials.json")
            client.log_artifact(parent, str(written.path))
        for each in _entries(source):
            own = {**each.tags, "mlflow.parentRunId": parent}
            own["autoprune.trial"] = str(each.number)
            run = client.create_run(experiment, tags=own, run_name=f"trial {each.number}")
            made.append(str(run.info.run_id))
            now = int(time.time() * 1000)
            client.log_batch(
                made[-1],
                [Metric(name, value, now, 0) for name, value in each.metrics.items()],
                [Param(name, value) for name, value in each.params.items()],
            )
            client.set_terminated(made[-1], each.status)
        client.set_terminated(parent, "FINISHED")
    except BaseException:
        for run_id in made:
            client.delete_run(run_id)
        raise
    return parent


def _runs(client: Any, experiment: str, parent: str) -> dict[int, str]:
    """Return trial number → run, for all runs within one."""
    found: dict[int, str] = {}
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], f"tags.`mlflow.parentRunId` = '{parent}'", page_token=token
        )
        found |= {int(x.data.tags["autoprune.trial"]): x.info.run_id for x in page}
        token = page.token
        if not token:
            return found


def _log_choice(client: Any, source: Chosen, run_id: str) -> None:
    """Mark the chosen trial's run, and put its card there."""
    client.set_tag(run_id, "autoprune.picked", "true")
    if source.trial.state is not TrialState.COMPLETED:
        return  # there is nothing to say in a card
    with tempfile.TemporaryDirectory() as room:
        card = Card().export(source, Path(room) / "card.md")
        for each in (card.path, *card.others):
            client.log_artifact(run_id, str(each))


def _without_password(uri: str) -> str:
    """Return an address without who may use it."""
    return re.sub(r"//[^/]*@", "//", uri)
