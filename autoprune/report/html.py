"""The report: one self-contained HTML file, interactive, with no access to the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from autoprune.contracts.objective import Goal
from autoprune.numbers import readable
from autoprune.report import figures
from autoprune.report.importance import importances, rows_of
from autoprune.report.remarks import by_group, deployed, forecasts, is_deployed, remarks
from autoprune.report.summary import interval, summarise
from autoprune.run import Run
from autoprune.trial import Evaluation, Trial, shown

_STATES = {
    "finished": "finished",
    "exhausted": "finished: the searchers had nothing more to propose",
    "stalled": "stalled: too many failures in a row",
    "interrupted": "interrupted: --resume goes on",
    "failed": "failed",
    None: "unfinished: still running, or killed",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the front's table: what is shown, and what it is sorted by."""

    text: str
    value: float | str
    note: str = ""
    is_word: bool = False


def write_report(run: Run, path: Path) -> None:
    """Write the report of `run` to `path`, replacing an older one in one step."""
    text = render(run)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def render(run: Run) -> str:
    """Return the report of `run` as HTML."""
    source = files("autoprune.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"readable": readable, "amount": _amount}
    dense, members, searchers = run.dense, run.front().members, summarise(run)
    has_dense_row = dense is not None and dense.evaluation is not None and dense not in members
    return environment.from_string(source).render(
        job=run.job,
        goals=run.goals,
        state=_STATES.get(run.history.close_reason, run.history.close_reason),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        minutes=run.history.elapsed_s / 60,
        headlines=list(_headlines(run)),
        figures=_figures(run),
        rows=[_cells(run, trial) for trial in members],
        dense=_cells(run, dense) if has_dense_row and dense is not None else [],
        deployed=deployed(members),
        remarks=remarks(members),
        forecasts=forecasts(run),
        knee=run.front().knee() if members else None,
        groups=by_group(run, run.front().knee()) if members else [],
        rungs=_rungs(run),
        searchers=searchers,
        importance=rows_of(importances(run)),
        largest=max((row.hypervolume or 0.0 for row in searchers), default=0.0) or 1.0,
        frozen=[group for group in run.graph.groups if group.is_frozen],
        prunable=len(run.graph.groups.prunable),
        job_yaml=yaml.safe_dump(run.job.to_json(), sort_keys=False),
        plotly=Markup(get_plotlyjs()),
    )


def _headlines(run: Run) -> Iterator[tuple[str, str, str]]:
    """Yield value, label, and a remark."""
    front = run.front()
    done = len({x.policy.sha256 for x in run.completed() if x.number != 0})
    noun = "network" if len(front.members) == 1 else "networks"
    yield str(len(front.members)), f"{noun} on the front", f"of {done} pruned and the dense one"
    volume, reported = front.hypervolume(), run.front(on_report=True)
    if volume is not None and front.members:
        again = reported.hypervolume() if reported.members else None
        yield f"{volume:.4f}", "hypervolume on V", "" if again is None else f"{again:.4f} on T"
    if not front.members:
        return
    knee = front.knee()
    where = f"at the knee, #{knee.number}" if len(run.goals) > 1 else f"at best, #{knee.number}"
    for goal in run.goals:
        value = shown(knee).value(goal.name)
        base = _base(run, knee)
        text = readable(value, goal.unit)
        remark = "" if base is None else f"dense: {readable(base.value(goal.name), goal.unit)}"
        if goal.unit != "share" and base is not None and base.value(goal.name):
            text, remark = f"{100 * value / base.value(goal.name):.1f} %", f"{text}; {remark}"
            yield text, f"of dense {goal.name} {where}", remark
        else:
            yield text, f"{goal.name} {where}", remark


def _figures(run: Run) -> dict[str, list[tuple[str, Markup]]]:
    """Return the figures that can be drawn: name → views, each with its title."""
    if not any(trial.number != 0 for trial in run.completed()):
        return {}
    drawn = {
        "front": [(title, figures.front_figure(run, x, y)) for title, x, y in _views(run.goals)],
        "convergence": [("", figures.convergence_figure(run))],
        "policy": [("", figures.policy_figure(run))],
        "bits": [("", figures.bits_figure(run))],
    }
    if len(run.goals) > 2 and run.front().members:
        drawn["parallel"] = [("", figures.parallel_figure(run))]
    return {
        name: [(title, _embedded(figure)) for title, figure in views]
        for name, views in drawn.items()
        if all(figure is not None for _, figure in views)
    }


def _views(goals: tuple[Goal, ...]) -> Iterator[tuple[str, Goal | None, Goal]]:
    """Yield title, x and y of every pair: of two, the cost lies and the quality stands up."""
    if len(goals) == 1:
        yield f"{goals[0].name} in the order of asking", None, goals[0]
    for one, other in combinations(goals, 2):
        is_cost = one.unit not in ("share", "nats") and other.unit in ("share", "nats")
        x, y = (one, other) if is_cost else (other, one)
        yield f"{y.name} against {x.name}", x, y


def _embedded(figure: Any) -> Markup:
    """Return a figure as JSON that cannot end the script element that it stands in."""
    return Markup(figure.to_json().replace("<", "\\u003c").replace("&", "\\u0026"))


def _cells(run: Run, trial: Trial) -> list[Cell]:
    cells = [Cell(str(trial.number), trial.number)]
    base = _base(run, trial)
    for goal in run.goals:
        measured = shown(trial).measurements[goal.name]
        text = readable(measured.value, goal.unit)
        mark = "°" * is_deployed(trial, goal.name) + "*" * bool(measured.note)
        cells.append(Cell(text + mark, measured.value, interval(measured, goal.unit)))
        cells.append(_compared(measured.value, base.value(goal.name) if base else None, goal))
    split = "T" if trial.report else "V"
    words = [
        Cell(x, x, is_word=True) for x in (split, trial.searcher, ", ".join(_picks(run, trial)))
    ]
    rung = [Cell(str(trial.rung), trial.rung)] if len(run.job.rungs) > 1 else []
    return [*cells, *words, *rung]


def _compared(value: float, base: float | None, goal: Goal) -> Cell:
    """Return the change against the dense network: points for shares, else percent of it."""
    if base is None or (not base and goal.unit != "share"):
        return Cell("–", 0.0)
    if goal.unit == "share":
        return Cell(f"{100 * (value - base):+.2f} pts", value - base)
    return Cell(f"{100 * value / base:.1f} %", value / base)


def _picks(run: Run, trial: Trial) -> Iterator[str]:
    """Yield the names under which the command line picks this trial."""
    front = run.front()
    if trial.number not in {each.number for each in front.members}:
        return
    if front.knee().number == trial.number:
        yield "knee"
    yield from (
        f"best:{goal.name}" for goal in run.goals if front.best(goal.name).number == trial.number
    )


def _amount(size: float) -> str:
    """Return the size of a split as the job gives it: images, or a share."""
    return f"{size} images" if isinstance(size, int) else f"{100 * size:.4g} %"


def _rungs(run: Run) -> list[tuple[int, int]]:
    """Return (rung, completed trials) for every rung of the job."""
    rungs = [trial.rung for trial in run.completed() if trial.number != 0]
    return [(rung, rungs.count(rung)) for rung in range(len(run.job.rungs))]


def _base(run: Run, trial: Trial) -> Evaluation | None:
    """Return the dense network's evaluation on the split that `trial` is shown on."""
    if run.dense is None:
        return None
    return run.dense.report if trial.report is not None else run.dense.evaluation
