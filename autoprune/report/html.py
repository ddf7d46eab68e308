"""The report: one self-contained HTML file, interactive, with no access to the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup

from autoprune.contracts.objective import Goal
from autoprune.numbers import readable
from autoprune.report.figures import (
    convergence_figure,
    front_figure,
    parallel_figure,
    policy_figure,
)
from autoprune.report.summary import summarise
from autoprune.run import Run, shown
from autoprune.trial import Trial


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the front's table: what is shown, and what it is sorted by."""

    text: str
    value: float | str
    is_word: bool = False


def write_report(run: Run, path: Path) -> None:
    """Write the report of `run` to `path`, replacing an older one in one step."""
    text = render(run)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def render(run: Run) -> str:
    """Return the report of `run` as HTML."""
    source = files("autoprune.report").joinpath("template.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True).from_string(source)
    return template.render(
        job=run.job,
        goals=run.goals,
        state=run.history.close_reason or "running or killed",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headlines=list(_headlines(run)),
        figures=list(_figures(run)),
        rows=[_cells(run, trial) for trial in run.front().members],
        searchers=summarise(run),
        frozen=[group for group in run.graph.groups if group.is_frozen],
        job_yaml=yaml.safe_dump(run.job.to_json(), sort_keys=False),
    )


def _headlines(run: Run) -> Iterator[tuple[str, str]]:
    front = run.front()
    yield str(len(front.members)), "networks on the front"
    yield str(len([x for x in run.completed() if x.number != 0])), "networks evaluated"
    volume = front.hypervolume()
    if volume is not None:
        yield f"{volume:.4f}", "hypervolume on V"
    if front.members:
        knee = front.knee()
        for goal in run.goals[:2]:
            text = readable(shown(knee).value(goal.name), goal.unit)
            yield text, f"{goal.name} at the knee (trial {knee.number})"
    if run.dense is not None and run.dense.evaluation is not None:
        for goal in run.goals[:2]:
            yield readable(shown(run.dense).value(goal.name), goal.unit), f"{goal.name}, dense"


def _figures(run: Run) -> Iterator[tuple[str, Markup]]:
    if not any(trial.number != 0 for trial in run.completed()):
        return
    figures = []
    if len(run.goals) > 1:
        y, x = _axes(run.goals)
        figures.append((f"{y.name} against {x.name}", front_figure(run, x, y)))
    if len(run.goals) > 2:
        figures.append(("All objectives of the front", parallel_figure(run)))
    figures.append(("What the search gained", convergence_figure(run)))
    figures.append(("What the front keeps of every group", policy_figure(run)))
    for index, (title, figure) in enumerate(figures):
        # plotly.js goes into the file once; the other figures find it there.
        html = figure.to_html(
            full_html=False,
            include_plotlyjs="inline" if index == 0 else False,
            config={"displayModeBar": False, "responsive": True},
        )
        yield title, Markup(html)


def _axes(goals: tuple[Goal, ...]) -> tuple[Goal, Goal]:
    """Return (y, x): a share or a loss stands up, a cost lies."""
    quality = [goal for goal in goals if goal.unit in ("share", "nats")]
    cost = [goal for goal in goals if goal not in quality]
    ordered = [*quality, *cost]
    return ordered[0], (cost or ordered[1:])[0]


def _cells(run: Run, trial: Trial) -> list[Cell]:
    cells = [Cell(str(trial.number), trial.number)]
    for goal in run.goals:
        value = shown(trial).value(goal.name)
        base = shown(run.dense).value(goal.name) if run.dense else 0.0
        cells.append(Cell(readable(value, goal.unit), value))
        cells.append(Cell(f"{value / base:.2f}×" if base else "", value / base if base else 0.0))
    split = "T" if trial.report else "V"
    words = [Cell(split, split, is_word=True), Cell(trial.searcher, trial.searcher, is_word=True)]
    return [*cells, *words, Cell(str(trial.rung), trial.rung)]
