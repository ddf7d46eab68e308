"""Handing a trial over: from the log and the files of a run to an exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune import plugins
from autoprune.contracts.exported import Exported
from autoprune.contracts.exporter import Chosen, Exporter, RunExporter
from autoprune.errors import ExportError
from autoprune.job.spec import PluginSpec
from autoprune.run_view import RunView
from autoprune.trial import Trial, TrialState


def export_trial(
    run: RunView, trial: Trial, spec: PluginSpec, path: Path, *, files: Path
) -> Exported:
    """Write a trial in the format of an exporter, read it back and compare.

    `files` is the directory of the weights that the run kept. Raises `ExportError` when the
    trial has no network or the path cannot be used, and `PluginError` for an unknown format or
    option.
    """
    exporter: Exporter[Any] = plugins.create("exporter", spec)
    if isinstance(exporter, RunExporter):
        return exporter.export(Chosen(run, trial), path)
    if trial.state is not TrialState.COMPLETED:
        raise ExportError(f"trial {trial.number} is {trial.state}; only completed trials export")
    exporter.check_free(path)  # before minutes may be spent on the network
    from autoprune.candidate import candidate_of  # needs torch, which tables do not

    return exporter.export(candidate_of(run, trial, files), path)
