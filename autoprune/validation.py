"""Validation of a whole job: its own rules and its plug-ins' options, all errors at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from autoprune import plugins
from autoprune.data.groups import CLASS
from autoprune.errors import JobError, PluginError, Violation, suggestion
from autoprune.job.load import read_job_file
from autoprune.job.spec import (
    BaselineSpec,
    BudgetSpec,
    DataSpec,
    Job,
    ModelSpec,
    Plugin,
    PluginSpec,
    QuantizationSpec,
    ResourceSpec,
    RungSpec,
    SplitSpec,
)
from autoprune.metrics import metric_plugin, metrics_of
from autoprune.models.catalog import is_known, model_names

_SECTIONS: Mapping[str, type[BaseModel]] = {
    "model": ModelSpec,
    "data": DataSpec,
    "data.splits": SplitSpec,
    "baselines": BaselineSpec,
    "rungs": RungSpec,
    "quantization": QuantizationSpec,
    "budget": BudgetSpec,
    "resources": ResourceSpec,
}
_LISTS = {"searchers": "searcher", "objectives": "objective"}


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read and validate a job file; raises `InputError` or `JobError` with all problems."""
    return validated(read_job_file(path, overrides), source=str(path))


def validated(raw: Mapping[str, Any], source: str = "job") -> Job:
    """Return the valid job that `raw` describes; raises `JobError` with every problem."""
    problems: list[Violation] = []
    job = None
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        problems += [_violation(each) for each in error.errors()]
    problems += _plugin_problems(raw)
    if job is not None:
        problems += _meaning_problems(job)
    if problems or job is None:
        raise JobError(problems, source)
    return job


def _violation(error: Any) -> Violation:
    path = ".".join(str(part) for part in error["loc"] if not str(part).startswith("function-"))
    if error["type"] == "extra_forbidden":
        parent, _, key = path.rpartition(".")
        section = ".".join(part for part in parent.split(".") if not part.isdigit())
        model = _SECTIONS.get(section, Job)
        allowed = [field.alias or name for name, field in model.model_fields.items()]
        return Violation(path, error["input"], f"unknown key; {suggestion(key, allowed)}")
    if error["type"] == "missing":
        return Violation(path, None, "this key is required")
    message = error["msg"].removeprefix("Value error, ")
    return Violation(path, error["input"], message[0].lower() + message[1:])


def _plugin_problems(raw: Mapping[str, Any]) -> Iterator[Violation]:
    """Check every plug-in of the raw job that can be read, whatever else is wrong."""
    for path, kind, value in _plugin_entries(raw):
        try:
            spec: PluginSpec = TypeAdapter(Plugin).validate_python(value)
        except ValidationError:
            continue  # reported by the job's own rules
        yield from plugins.check(kind, spec, path)


def _plugin_entries(raw: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    if "space" in raw:
        yield "space", "space", raw["space"]
    data = raw.get("data")
    if isinstance(data, Mapping):
        rest = {key: each for key, each in data.items() if key not in DataSpec.model_fields}
        yield "data", "data", data.get("source", rest)
    elif data is not None:
        yield "data", "data", data
    for key, kind in _LISTS.items():
        if isinstance(raw.get(key), list | tuple):
            for index, value in enumerate(raw[key]):
                yield f"{key}.{index}", kind, value
                team = value.get("searchers") if isinstance(value, Mapping) else None
                for place, each in enumerate(team if isinstance(team, list | tuple) else ()):
                    yield f"{key}.{index}.searchers.{place}", kind, each
    baselines = raw.get("baselines")
    if isinstance(baselines, Mapping) and isinstance(baselines.get("searchers"), list | tuple):
        for index, value in enumerate(baselines["searchers"]):
            yield f"baselines.searchers.{index}", "searcher", value


def _meaning_problems(job: Job) -> Iterator[Violation]:
    """Check what only makes sense on a job that is well-formed."""
    if job.model.name is not None and not is_known(job.model.name):
        rule = f"unknown model; {suggestion(job.model.name, model_names())}"
        yield Violation("model.name", job.model.name, rule)
    checkpoint = job.model.checkpoint
    if checkpoint is not None and not Path(checkpoint).is_file():
        yield Violation("model.checkpoint", checkpoint, "the file does not exist")
    measured = set()
    for index, spec in enumerate(job.objectives):
        if plugins.check("objective", spec, ""):
            continue  # reported with the plug-ins
        try:
            metric = plugins.create("objective", spec).name
        except PluginError as error:  # values that only the constructor can judge
            yield Violation(f"objectives.{index}", spec.options, str(error))
            continue
        if metric in measured:
            yield Violation(f"objectives.{index}", spec.name, f"{metric} is measured twice")
        measured.add(metric)
    for index, constraint in enumerate(job.constraints):
        if constraint.metric not in measured:
            try:
                metric_plugin(constraint.metric)
            except PluginError as error:
                yield Violation(f"constraints.{index}", constraint.text, str(error))
    yield from _missing_groups(job)
    criterion = job.space.options.get("criterion")
    if isinstance(criterion, str):
        yield from plugins.check("criterion", PluginSpec(name=criterion), "space.criterion")


def _missing_groups(job: Job) -> Iterator[Violation]:
    """Report what compares groups where a job names none but the classes."""
    if any(title != CLASS for title in job.data.groups):
        return
    try:
        metrics = metrics_of(job)
    except PluginError:
        return  # reported with the plug-ins
    compared = sorted(name for name, each in metrics.items() if each.needs_groups)
    if compared:
        rule = f"{', '.join(compared)} compares groups: name an attribute, as in 'groups: sex'"
        yield Violation("data.groups", job.data.groups, rule)
