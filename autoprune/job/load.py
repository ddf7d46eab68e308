"""Reading a job file: YAML, `--set` overrides, environment variables."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autoprune.errors import InputError, JobError, Violation

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


def read_job_file(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the raw job of a YAML file; its name is the file's stem unless it gives one.

    `overrides` are `KEY.PATH=VALUE` texts with YAML values, applied in order; list items
    are addressed by index. `${NAME}` and `${NAME:-default}` in texts are replaced from
    the environment. Raises `InputError` for what cannot be read, `JobError` for variables
    that are not set.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read job file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold a mapping of job keys, found {type(raw).__name__}")
    raw.setdefault("name", path.stem)
    return overridden(raw, overrides, str(path))


def overridden(
    raw: Mapping[str, Any], overrides: Sequence[str], source: str = "job"
) -> dict[str, Any]:
    """Return a raw job with overrides carried out and variables replaced, as `read_job_file`."""
    changed = copy.deepcopy(dict(raw))
    for override in overrides:
        _apply(changed, override)
    problems: list[Violation] = []
    expanded = _expanded(changed, "", problems)
    if problems:
        raise JobError(problems, source)
    return dict(expanded)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    steps = key.split(".")
    if not equals or not all(steps):
        raise InputError(f"--set takes KEY.PATH=VALUE, given: {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"the value of --set {override!r} is not valid YAML: {error}") from error
    place: Any = raw
    for step in steps[:-1]:
        place = _child(place, step, override)
    if isinstance(place, list):
        place[_index(place, steps[-1], override)] = value
    elif isinstance(place, dict):
        place[steps[-1]] = value
    else:
        raise InputError(f"--set {override!r}: {'.'.join(steps[:-1])} is a plain value")


def _child(place: Any, step: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, step, override)]
    if isinstance(place, dict):
        return place.setdefault(step, {})
    raise InputError(f"--set {override!r}: {step!r} lies inside a plain value")


def _index(place: list[Any], step: str, override: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise InputError(
            f"--set {override!r}: {step!r} must be an index from 0 to {len(place) - 1}"
        )
    return int(step)


def _expanded(value: Any, path: str, problems: list[Violation]) -> Any:
    if isinstance(value, dict):
        return {
            key: _expanded(each, f"{path}.{key}".lstrip("."), problems)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_expanded(each, f"{path}.{index}", problems) for index, each in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"], match["default"])
        if found is None:
            rule = f"environment variable {match['name']} is not set; set it, or use --set {path}=…"
            problems.append(Violation(path, value, rule))
        return found or ""

    return _VARIABLE.sub(replacement, value)
