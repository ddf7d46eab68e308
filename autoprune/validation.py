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
    DistillSpec,
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
    "rungs.distill": DistillSpec,
    "rungs.distill.teacher": ModelSpec,
    "quantization": QuantizationSpec,
    "budget": BudgetSpec,
    "resources": ResourceSpec,
}
_LISTS = {"searchers": "searcher", "objectives": "objective"}


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read and validate a job file; raises `InputError` or `JobError` with all problems."""
    return validated(read_job_file(path, overrides), source=str(path))


def validated(raw: Mapping[str, Any], source: str = "job", *, loads_plugins: bool = True) -> Job:
    """Return the valid job that `raw` describes; raises `JobError` with every problem.

    Without `loads_plugins` only its form is judged, and nothing that it names is imported.
    """
    problems: list[Violation] = []
    job = None
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        problems += [_violation(each) for each in error.errors() if not _follows(each, error)]
    if loads_plugins:
        problems += _plugin_problems(raw)
    if loads_plugins and job is not None:
        problems += _meaning_problems(job)
    if problems or job is None:
        raise JobError(problems, source)
    return job


def _follows(one: Any, errors: ValidationError) -> bool:
    """Say whether a list is only too short because an entry of it is wrong."""
    place, depth = one["loc"], len(one["loc"])
    return one["type"] == "too_short" and any(
        len(each["loc"]) > depth and each["loc"][:depth] == place for each in errors.errors()
    )


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
    message = error["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
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
    rungs = raw.get("rungs")
    for index, rung in enumerate(rungs if isinstance(rungs, list | tuple) else ()):
        if isinstance(rung, Mapping) and "recovery" in rung:
            yield f"rungs.{index}.recovery", "recovery", rung["recovery"]
    baselines = raw.get("baselines")
    if isinstance(baselines, Mapping) and isinstance(baselines.get("searchers"), list | tuple):
        for index, value in enumerate(baselines["searchers"]):
            yield f"baselines.searchers.{index}", "searcher", value


def _meaning_problems(job: Job) -> Iterator[Violation]:
    """Check what only makes sense on a job that is well-formed."""
    yield from _model_problems(job.model, "model")
    for index, rung in enumerate(job.rungs):
        yield from _recovery_problems(rung, f"rungs.{index}")
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
    criteria = job.space.options.get("criterion", ())
    for each in (criteria,) if isinstance(criteria, str) else criteria:
        yield from plugins.check("criterion", PluginSpec(name=str(each)), "space.criterion")
    for each in job.space.options.get("recovery", ()):
        yield from plugins.check("recovery", PluginSpec(name=str(each)), "space.recovery")


def _model_problems(model: ModelSpec, path: str) -> Iterator[Violation]:
    if model.name is not None and not is_known(model.name):
        rule = f"unknown model; {suggestion(model.name, model_names())}"
        yield Violation(f"{path}.name", model.name, rule)
    if model.checkpoint is not None and not Path(model.checkpoint).is_file():
        yield Violation(f"{path}.checkpoint", model.checkpoint, "the file does not exist")


def _recovery_problems(rung: RungSpec, path: str) -> Iterator[Violation]:
    """Check a rung's recipe, and what its teacher can be asked for."""
    if not plugins.check("recovery", rung.recovery, ""):  # else reported with the plug-ins
        try:
            plugins.create("recovery", rung.recovery)
        except PluginError as error:
            yield Violation(f"{path}.recovery", rung.recovery.options, str(error))
    distill = rung.distill
    if distill is None:
        return
    path = f"{path}.distill"
    if isinstance(distill.teacher, ModelSpec):
        yield from _model_problems(distill.teacher, f"{path}.teacher")
        if distill.features:
            rule = (
                "features are compared channel with channel, and channels of another model are "
                "others; use 'attention', or the teacher 'dense' or 'front'"
            )
            yield Violation(f"{path}.features", distill.features, rule)
    if distill.cached and distill.teacher == "front":
        rule = "the front's teacher changes as it grows; cache the logits of 'dense' or a model"
        yield Violation(f"{path}.cached", True, rule)
    if distill.cached and (distill.features or distill.attention):
        rule = (
            "only logits are cached: with 'features' or 'attention' the teacher has to run; "
            "leave 'cached' or both of them out"
        )
        yield Violation(f"{path}.cached", True, rule)


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
