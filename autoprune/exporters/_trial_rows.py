"""All trials of a run as one table: a row per trial, by number; columns in a fixed order.

    table = table_of(chosen)
    table.columns[0], table.rows[0][0]        # Column("job", "text"), "digits"

Which columns there are follows from the job, its network and what was measured. A cell is
None where there is nothing to say, and where a value is NaN or infinite: neither JSON nor a
spreadsheet has those.

No cell and no column begins with a text that somebody else chose, such as a layer's name or
the message of an exception: each has a word of ours before it. So no cell can be a formula
for a spreadsheet (`=`, `+`, `-`, `@`), and nothing has to be changed to keep it from being one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from autoprune.contracts.exporter import Chosen, versions
from autoprune.errors import ExportError
from autoprune.exporters._run_facts import finite
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Measurement, Trial

if TYPE_CHECKING:
    from autoprune.run_view import RunView

Kind = Literal["text", "whole", "number", "flag"]
Cell: TypeAlias = str | int | float | bool | None
_Named: TypeAlias = dict[str, tuple[Kind, Cell]]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name, and what its cells are where they are not None."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and rows of as many cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table_of(source: Chosen) -> Table:
    """Return every trial of a run, also those that failed or were never run."""
    run, trials = source.run, source.run.trials()
    metrics = _metrics(run, trials)
    members = {trial.number for trial in run.front().members}
    written_by = versions()
    rows = [
        _identity(source, trial, trial.number in members)
        | _measured("search", trial.evaluation, metrics)
        | _measured("report", trial.report, metrics)
        | _deployed(trial)
        | _made(run, trial)
        | {f"versions.{name}": ("text", each) for name, each in written_by.items()}
        for trial in trials
    ]
    columns = tuple(Column(_text(name), kind) for name, (kind, _) in rows[0].items())
    return Table(columns, tuple(tuple(_cell(*each) for each in row.values()) for row in rows))


def require_same(expected: Table, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Compare every cell of a table that was read back; raise `ExportError` at the first."""
    names = [each.name for each in expected.columns]
    if list(columns) != names or len(rows) != len(expected.rows):
        raise ExportError(
            f"the written table has {len(columns)} columns and {len(rows)} rows, others than the "
            f"{len(names)} and {len(expected.rows)} that were to be written; nothing was kept"
        )
    for number, (row, wanted) in enumerate(zip(rows, expected.rows, strict=True)):
        for name, cell, want in zip(names, row, wanted, strict=True):
            if cell != want or type(cell) is not type(want):
                raise ExportError(
                    f"row {number}, {name}: {cell!r} was read back instead of {want!r}; nothing "
                    "was kept"
                )


def _metrics(run: RunView, trials: Sequence[Trial]) -> list[str]:
    """Return the metrics of a run: its objectives, then others in the order of their coming."""
    known = dict.fromkeys(goal.name for goal in run.goals)
    for trial in trials:
        for evaluation in (trial.evaluation, trial.report):
            known |= dict.fromkeys(evaluation.measurements if evaluation else ())
    return list(known)


def _identity(source: Chosen, trial: Trial, is_member: bool) -> _Named:
    evaluation, report, failure = trial.evaluation, trial.report, trial.failure
    return {
        "job": ("text", source.run.job.name),
        "trial": ("whole", trial.number),
        "picked": ("flag", trial.number == source.trial.number),
        "on_front": ("flag", is_member),
        "state": ("text", str(trial.state)),
        "failure_kind": ("text", str(failure.kind) if failure else None),
        "failure": ("text", str(failure) if failure else None),
        "parent": ("whole", trial.parent),
        "teacher": ("whole", trial.teacher),
        "rung": ("whole", trial.rung),
        "searcher": ("text", trial.searcher),
        "attempts": ("whole", trial.attempts),
        "policy_sha256": ("text", trial.policy.sha256),
        "seconds": ("number", evaluation.seconds if evaluation else None),
        "report_seconds": ("number", report.seconds if report else None),
        "peak_bytes": ("whole", evaluation.peak_bytes if evaluation else None),
        "device": ("text", evaluation.device if evaluation else None),
        "violations": ("text", _json(evaluation.violations) if evaluation else None),
        "misses": ("text", _json(evaluation.misses) if evaluation else None),
    }


def _measured(split: str, evaluation: Evaluation | None, metrics: Sequence[str]) -> _Named:
    found: _Named = {}
    for metric in metrics:
        measured = evaluation.measurements.get(metric) if evaluation else None
        bounds = measured or Measurement(math.nan)
        found[f"{split}.{metric}.value"] = ("number", bounds.value)
        found[f"{split}.{metric}.low"] = ("number", bounds.low)
        found[f"{split}.{metric}.high"] = ("number", bounds.high)
    return found


def _deployed(trial: Trial) -> _Named:
    deployment = trial.report.deployment if trial.report else None
    return {
        "deployment.target": ("text", deployment.target if deployment else None),
        "deployment.metrics": ("text", _json(deployment.metrics) if deployment else None),
        "deployment.notes": ("text", _json(deployment.notes) if deployment else None),
        "deployment.file_bytes": ("whole", deployment.file_bytes if deployment else None),
    }


def _made(run: RunView, trial: Trial) -> _Named:
    """Return costs and decisions: those of groups and layers, then the policy as a whole."""
    policy = run.as_evaluated(trial)
    form = run.graph.form(policy)
    costs = {f"costs.{name}": each for name, each in form.costs.to_json().items()}
    ratios = {f"keep_ratio.{name}": kept / units for name, (kept, units) in form.units.items()}
    return {
        **{name: ("whole", each) for name, each in costs.items()},
        **{name: ("number", each) for name, each in ratios.items()},
        **_layers(run, policy, form.gone),
        "dropped": ("text", _json(sorted(policy.dropped))),
        "policy": ("text", _json(trial.policy.to_json())),
    }


def _layers(run: RunView, policy: Policy, gone: frozenset[str]) -> _Named:
    """Return bits, rank and kept weights of every layer; nothing of layers that are gone."""
    found: _Named = {}
    for layer in run.graph.groups.layers:
        decision = None if layer.name in gone else policy.layer(layer.name)
        weight_bits = decision.weight_bits if decision else None
        activation_bits = decision.activation_bits if decision else None
        found[f"bits.{layer.name}"] = ("whole", weight_bits)
        found[f"activation_bits.{layer.name}"] = ("whole", activation_bits)
        found[f"rank.{layer.name}"] = ("whole", decision.rank if decision else None)
        found[f"weights.{layer.name}"] = ("text", decision.kept if decision else None)
    return found


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(finite(value), separators=(",", ":"))


def _cell(kind: Kind, value: Cell) -> Cell:
    """Return a cell in its kind."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind == "text":
        return _text(str(value))
    if kind == "whole":
        return int(value)
    return float(value) if kind == "number" else bool(value)


def _text(value: str) -> str:
    """Return a text that UTF-8 can hold: paths in messages may bring what is no character."""
    return value.encode("utf-8", "backslashreplace").decode()
