"""The figures of the report, as plotly figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from autoprune.contracts.objective import Goal
from autoprune.controller.roster import labels_of
from autoprune.front import Front
from autoprune.run import Run, shown
from autoprune.trial import Trial

COLOURS = ("#2f6fdb", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#0b7285", "#7f5f01")
GREY = "#8a8f98"


def front_figure(run: Run, x: Goal, y: Goal) -> Any:
    """Scatter of all completed trials over two objectives, front members joined."""
    figure = go.Figure()
    members = run.front().members
    for colour, label in zip(_cycle(len(labels_of(run.job))), labels_of(run.job), strict=True):
        own = [each for each in run.completed() if each.searcher == label]
        if own:
            figure.add_trace(_points(own, run.goals, x, y, label, colour))
    ordered = sorted(members, key=lambda each: shown(each).value(x.name))
    if ordered:
        figure.add_trace(_front_line(ordered, run.goals, x, y))
    if run.dense is not None and run.dense.evaluation is not None:
        marker = {"symbol": "star", "size": 14, "color": "#f2b705", "line": {"width": 1}}
        figure.add_trace(_points([run.dense], run.goals, x, y, "dense", "", marker))
    figure.update_xaxes(title=f"{x.name} [{x.unit}]")
    figure.update_yaxes(title=f"{y.name} [{y.unit}]", tickformat=".0%" if y.unit == "share" else "")
    return _styled(figure)


def convergence_figure(run: Run) -> Any:
    """Hypervolume against the number of evaluations, for everybody and for all together."""
    figure = go.Figure()
    labels = list(labels_of(run.job))
    for colour, label in zip((*_cycle(len(labels)), "#222"), (*labels, "all"), strict=True):
        front, volumes = Front(run.goals), []
        for trial in run.completed():
            is_wanted = trial.number != 0 and trial.rung == run.top_rung
            if is_wanted and label in (trial.searcher, "all"):
                front.add(trial)
                volumes.append(front.hypervolume())
        if volumes:
            line = {"color": colour if label != "all" else GREY, "shape": "hv"}
            counts = list(range(1, len(volumes) + 1))
            figure.add_trace(go.Scatter(x=counts, y=volumes, name=label, mode="lines", line=line))
    figure.update_xaxes(title="evaluations")
    figure.update_yaxes(title="hypervolume (search split)")
    return _styled(figure)


def policy_figure(run: Run) -> Any:
    """Heat map of keep_ratio: groups against front members, best by the first goal first."""
    members = run.front().members
    groups = [group.name for group in run.graph.groups.prunable]
    ratios = [[trial.policy.keep_ratio(group) for trial in members] for group in groups]
    heat = go.Heatmap(
        z=ratios,
        x=[f"#{trial.number}" for trial in members],
        y=groups,
        zmin=0,
        zmax=1,
        colorscale="Viridis",
        colorbar={"title": "keep_ratio"},
        hovertemplate="trial %{x}<br>%{y}<br>keep_ratio %{z:.3f}<extra></extra>",
    )
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title="front members", type="category")
    return _styled(figure, height=max(320, 22 * len(groups) + 120))


def parallel_figure(run: Run) -> Any:
    """Parallel coordinates of the front, one axis per objective."""
    members = run.front().members
    dimensions = [
        {"label": goal.name, "values": [shown(each).value(goal.name) for each in members]}
        for goal in run.goals
    ]
    first = dimensions[0]["values"] if dimensions else []
    line = {"color": first, "colorscale": "Viridis"}
    return _styled(go.Figure(go.Parcoords(dimensions=dimensions, line=line)))


def _points(
    trials: Sequence[Trial],
    goals: Sequence[Goal],
    x: Goal,
    y: Goal,
    label: str,
    colour: str,
    marker: dict[str, Any] | None = None,
) -> Any:
    return go.Scatter(
        x=[shown(each).value(x.name) for each in trials],
        y=[shown(each).value(y.name) for each in trials],
        mode="markers",
        name=label,
        marker=marker or {"color": colour, "size": 7, "opacity": 0.55},
        text=[_hover(each, goals) for each in trials],
        hovertemplate="%{text}<extra></extra>",
    )


def _front_line(trials: Sequence[Trial], goals: Sequence[Goal], x: Goal, y: Goal) -> Any:
    measured = [shown(each).measurements[y.name] for each in trials]
    above = [(each.high - each.value) if each.high is not None else 0.0 for each in measured]
    below = [(each.value - each.low) if each.low is not None else 0.0 for each in measured]
    return go.Scatter(
        x=[shown(each).value(x.name) for each in trials],
        y=[each.value for each in measured],
        error_y={"array": above, "arrayminus": below, "thickness": 1, "width": 2},
        mode="lines+markers",
        name="front",
        line={"color": "#495057", "shape": "hv", "width": 1.5},
        marker={"size": 9, "color": "rgba(0,0,0,0)", "line": {"width": 2, "color": "#495057"}},
        text=[_hover(each, goals) for each in trials],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(trial: Trial, goals: Sequence[Goal]) -> str:
    values = [f"{goal.name} {shown(trial).value(goal.name):.6g}" for goal in goals]
    return "<br>".join([f"<b>trial {trial.number}</b> by {trial.searcher}", *values])


def _cycle(count: int) -> tuple[str, ...]:
    return tuple(COLOURS[index % len(COLOURS)] for index in range(count))


def _styled(figure: Any, height: int = 460) -> Any:
    figure.update_layout(
        height=height,
        margin={"l": 64, "r": 16, "t": 16, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": GREY},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    grid = {"gridcolor": "rgba(138,143,152,0.25)", "zeroline": False}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure
