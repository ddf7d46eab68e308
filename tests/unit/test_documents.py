"""What README, docs and examples show: jobs that validate, commands that parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from autoprune.cli.main import app
from autoprune.errors import JobError
from autoprune.job.load import read_job_file
from autoprune.job.spec import ModelSpec
from autoprune.plugins import names
from autoprune.validation import validated
from cluster.service.catalog import Catalog

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BASE = {"model": {"name": "mlp"}, "data": {"name": "digits"}}
# What only the reader has.
THEIRS = ("model.checkpoint",)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield the code blocks of a language, each with where it stands."""
    for path in DOCUMENTS:
        for found in re.finditer(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL):
            yield f"{path.name}: {found[1].splitlines()[0]}", found[1]


def jobs() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every job, or part of one, that is shown."""
    for where, text in blocks("yaml"):
        body = yaml.safe_load(text)
        if isinstance(body, Mapping) and not {"apiVersion", "services", "models"} & body.keys():
            yield where, {**BASE, **body}


def commands() -> Iterator[str]:
    """Yield every command line of autoprune that is shown."""
    for _, text in blocks("bash"):
        for line in text.splitlines():
            if line.startswith("autoprune "):
                yield line


def problems(job: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a job, but for what only the reader has."""
    try:
        validated(job)
    except JobError as error:
        return [str(each) for each in error.violations if each.path not in THEIRS]
    return []


def test_catalogues_that_are_shown_are_valid() -> None:
    shown = [yaml.safe_load(text) for _, text in blocks("yaml")]
    catalogues = [body for body in shown if isinstance(body, Mapping) and "models" in body]
    assert catalogues
    for each in catalogues:
        found = Catalog.model_validate(each)
        for model in found.models.values():
            ModelSpec.model_validate(model)


def test_every_format_is_described() -> None:
    text = (ROOT / "docs" / "exports.md").read_text()
    table = text[text.index("## Formats") : text.index("### ")]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    described = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(described) == sorted(names("exporter"))


@pytest.mark.parametrize("job", [pytest.param(job, id=where) for where, job in jobs()])
def test_jobs_that_are_shown_are_valid(job: Mapping[str, Any]) -> None:
    assert problems(job) == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda x: x.name)
def test_examples_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(name, str(ROOT))
    assert problems(read_job_file(path)) == []


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_that_are_shown_parse(line: str, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    # Files and directories of the reader: any that is there will do.
    words = [
        str(tmp_path / "x") if word.endswith(".yaml") else word
        for word in shlex.split(line, comments=True)[1:]
        if word not in ("…",)
    ]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert words[0] in commands
    commands[words[0]].make_context(words[0], words[1:])


def test_something_is_shown() -> None:
    assert len(list(jobs())) >= 4
    assert len(set(commands())) >= 15
