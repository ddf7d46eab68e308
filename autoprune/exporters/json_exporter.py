"""JSON: everything that is known of a run's trials."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.errors import ExportError
from autoprune.exporters._run_facts import finite, origin
from autoprune.seal import check_seal
from autoprune.trial import Trial

if TYPE_CHECKING:
    from autoprune.run_view import RunView


class Json(RunExporter):
    """JSON of all trials: `autoprune front --format json`, and with it all that the log knows.

    Beside the keys of `front`, every trial has `state`, `parent`, `teacher`, `attempts`,
    `failure`, `costs`, `units`, `dropped` and `layers` as `show` prints them, and `evaluation`
    and `report` as they stand in the log. `provenance` says where the file comes from.
    """

    suffix: ClassVar[str] = ".json"

    def write(self, source: Chosen, path: Path) -> None:
        """Write the document in ASCII; NaN and infinities are null."""
        body = json.dumps(_document(source), indent=1, allow_nan=False)
        # What looks like a seal in a message of the log must not be one.
        body = body.replace("autoprune-sha256:", "autoprune\\u002dsha256:")
        stamp = self.stamped(origin(source))
        path.write_text(f'{{\n "provenance": {stamp},\n{body[2:]}\n', encoding="ascii")

    def check(self, source: Chosen, path: Path) -> float:
        """Read the document back and compare all of it; raises `ExportError` at a difference."""
        check_seal(path)
        read = json.loads(path.read_text(encoding="ascii"), parse_constant=_refused)
        said = read.pop("provenance")
        if any(said.get(key) != value for key, value in origin(source).items()):
            raise ExportError(f"{path.name} does not say where it comes from; nothing was kept")
        expected = _document(source)
        for key in (*expected, *read):
            if read.get(key) != expected.get(key):
                raise ExportError(f"{path.name}: {key} was read back otherwise; nothing was kept")
        return 0.0


def _document(source: Chosen) -> dict[str, Any]:
    """Return the whole run as JSON."""
    run, trials = source.run, source.run.trials()
    found = run.front_json(trials)
    pairs = zip(found["trials"], trials, strict=True)
    document: dict[str, Any] = finite(
        {
            **found,
            "picked": source.trial.number,
            "front": [trial.number for trial in run.front().members],
            "spec": run.job.to_json(),
            "trials": [{**row, **_rest(run, trial)} for row, trial in pairs],
        }
    )
    return document


def _rest(run: RunView, trial: Trial) -> dict[str, Any]:
    policy = run.as_evaluated(trial)
    form = run.graph.form(policy)
    return {
        "state": str(trial.state),
        "parent": trial.parent,
        "teacher": trial.teacher,
        "attempts": trial.attempts,
        "failure": trial.failure.to_json() if trial.failure else None,
        "costs": form.costs.to_json(),
        "units": form.units,
        "dropped": sorted(trial.policy.dropped),
        "layers": {name: asdict(each) for name, each in policy.layers.items()},
        "evaluation": trial.evaluation.to_json() if trial.evaluation else None,
        "report": trial.report.to_json() if trial.report else None,
    }


def _refused(name: str) -> None:
    raise ExportError(f"{name} is no JSON; nothing was kept")
