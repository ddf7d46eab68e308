"""A run in a directory, seen from outside: its job, trials, front and figures.

    run = Run.open(Path("runs/digits"))
    run.front().knee()                    # a Trial

A run is a directory: `store.sqlite` holds the log, or `store.json` says in which database it
is; `files/` holds the weights of reported trials, `report.html` is the report. Reading needs
no torch and never changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.contracts.exported import Exported
from autoprune.contracts.store import JobRecord
from autoprune.graph.network import NetworkGraph
from autoprune.handover import export_trial
from autoprune.job.spec import Job, PluginSpec
from autoprune.run_view import RunView
from autoprune.store.history import History
from autoprune.store.location import open_store, record_of
from autoprune.trial import Trial

FILES_NAME = "files"
REPORT_NAME = "report.html"


class Run(RunView):
    """One job as its log tells it. `directory` is where its files lie."""

    def __init__(self, directory: Path, record: JobRecord, history: History) -> None:
        self.directory = directory
        self.job = Job.model_validate(record.spec["job"])
        self.history = history
        self._preparation: Mapping[str, Any] = record.spec["preparation"]
        self.graph = NetworkGraph.from_json(self.preparation["graph"])

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Read a run; raises `RunError` if `directory` holds none."""
        with open_store(directory, read_only=True) as store:
            record = record_of(directory, store)
            history = History.replay(store.events(record.name))
        return cls(directory, record, history)

    @property
    def preparation(self) -> Mapping[str, Any]:
        """What was found out about the network before the search, as JSON."""
        return self._preparation

    def trials(self) -> Sequence[Trial]:
        """Return every trial that was asked, the dense network included, by number."""
        return list(self.history.trials.values())

    def find(self, number: int) -> Trial | None:
        """Return the trial with a number, None if it was never asked."""
        return self.history.trials.get(number)

    def export(self, trial: Trial, to: str, out: Path, **options: Any) -> Exported:
        """Write a trial, its network made from its weights and the job's data; see `RunView`."""
        spec = PluginSpec(name=to, options=options)
        return export_trial(self, trial, spec, out, files=self.directory / FILES_NAME)
