"""The figures of the report, as plotly figures.

Dots stand where the search saw them, on the search split V; members of the front stand
where the report split T puts them, once they are measured there. Colours follow the
reader's theme: the page colours text, grid, and every trace whose `meta` is `INK`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import inf, log2
from typing import Any

import plotly.graph_objects as go

from autoprune.contracts.objective import Goal
from autoprune.controller.roster import DENSE
from autoprune.front import Front
from autoprune.numbers import readable
from autoprune.policy import UNTOUCHED
from autoprune.report.summary import described, labels
from autoprune.run import Run
from autoprune.trial import Evaluation, Measurement, Trial, shown

INK = "ink"
GREY = "#8b929b"
STAR = "#e0a800"
# Mid-tones in the manner of Okabe and Ito (2008): apart for colour-blind readers, and
# readable on white as on black.
COLOURS = ("#3d85c6", "#d9731a", "#2a9d74", "#b15fa8", "#d1495b", "#3fa7b5", "#94764a")


@dataclass(frozen=True, slots=True)
class Axis:
    """One side of the scatter: an objective, or the trial's number where there is none."""

    goal: Goal | None

    def measured(self, trial: Trial, evaluation: Evaluation | None) -> Measurement:
        """Return where a trial stands on this axis, by the given evaluation of it."""
        if self.goal is None or evaluation is None:
            return Measurement(float(trial.number))
        return evaluation.measurements[self.goal.name]

    def loss(self, trial: Trial) -> float:
        """Return the shown value of a trial so that smaller is better."""
        value = self.measured(trial, shown(trial)).value
        return value if self.goal is None else self.goal.loss(value)

    def layout(self) -> dict[str, Any]:
        """Return title and number format."""
        if self.goal is None:
            return {"title": "trial"}
        formats = {"share": ".2~%", "ms": "", "nats": ""}
        title = self.goal.name
        if self.goal.unit in ("ms", "nats") and not title.endswith(self.goal.unit):
            title += f" [{self.goal.unit}]"
        return {"title": title, "tickformat": formats.get(self.goal.unit, ".3~s")}


def front_figure(run: Run, x: Goal | None, y: Goal) -> Any:
    """Scatter of all completed trials over two objectives, with the front as a staircase.

    With `x` None the trials stand in the order of asking. Trials of lower rungs, and those
    that break a constraint, are grey: they cannot be compared, or cannot be chosen.
    """
    axes, members = (Axis(x), Axis(y)), run.front().members
    figure = go.Figure()
    _add_dots(figure, run, axes, {each.number for each in members})
    stairs = _staircase(members, *axes)
    # Up to the next member the best value at hand is the left one's, where less of x is better.
    shape = "vh" if x is not None and x.goal == "max" else "hv"
    line = {"width": 1.5, "shape": shape}
    figure.add_trace(_trace(run, stairs, axes, "front", mode="lines", line=line, meta=INK))
    dotted = {each.legendgroup for each in figure.data if len(each.x)}
    for label, colour in _colours(run).items():
        own = [each for each in members if each.searcher == label]
        is_named = escape(label) in dotted  # by its dots off the front
        marker = {"size": 11, "color": colour, "line": {"width": 1.5, "color": "white"}}
        bars = _bars(own, axes, colour)
        name = f"{label}, on the front" if is_named else label
        style: dict[str, Any] = {"marker": marker, "showlegend": not is_named}
        style["legendgroup"] = escape(label)
        figure.add_trace(_trace(run, own, axes, name, **style, **bars))
    if members and len(run.goals) > 1:
        ring = {"size": 20, "symbol": "circle-open", "line": {"width": 1.5}}
        knee = run.front().knee()
        figure.add_trace(_trace(run, [knee], axes, "knee", marker=ring, meta=INK))
    if run.dense is not None and run.dense.evaluation is not None:
        star = {"symbol": "star", "size": 15, "color": STAR, "line": {"width": 1, "color": "white"}}
        figure.add_trace(_trace(run, [run.dense], axes, "dense network", marker=star))
    figure.update_xaxes(**axes[0].layout())
    figure.update_yaxes(**axes[1].layout())
    figure.data = [each for each in figure.data if len(each.x)]
    return _styled(figure, 520)


def convergence_figure(run: Run) -> Any | None:
    """Hypervolume against the number of evaluations, for everybody and for all together.

    None where no hypervolume is defined yet.
    """
    figure = go.Figure()
    trials = [each for each in run.completed() if each.rung == run.top_rung]
    everybody = {"width": 2.5, "shape": "hv"}
    _add_curve(figure, run, "all together", trials, line=everybody, meta=INK)
    for label, colour in _colours(run).items():
        dash = "dot" if labels(run)[label] else "solid"
        line = {"color": colour, "width": 1.75, "shape": "hv", "dash": dash}
        own = [each for each in trials if each.searcher == label and each.number != 0]
        _add_curve(figure, run, label, own, line=line)
    figure.update_xaxes(title="completed evaluations", rangemode="tozero")
    figure.update_yaxes(title="hypervolume on V", rangemode="tozero")
    return _styled(figure, 400) if figure.data else None


def policy_figure(run: Run) -> Any | None:
    """Heat map of keep_ratio: groups against front members, best by the first goal first.

    Groups that vanish with a dropped block have none left.
    """
    members, groups = run.front().members, [group.name for group in run.graph.groups.prunable]
    if not members or not groups:
        return None
    gone = [run.graph.groups.vanishing(trial.policy) for trial in members]
    ratios = [
        [
            0.0 if group in vanished else trial.policy.keep_ratio(group)
            for trial, vanished in zip(members, gone, strict=True)
        ]
        for group in groups
    ]
    return _heat_map(ratios, members, groups, 1, "keep_ratio %{z:.3f}")


def bits_figure(run: Run) -> Any | None:
    """Heat map of the bits of kernels: layers against front members; None where all have 32.

    Colours follow the logarithm, so that 2, 4, 8, 16 and 32 bits are evenly apart. Layers in
    dropped blocks have none.
    """
    members = run.front().members
    policies = [run.as_evaluated(trial) for trial in members]
    layers = [
        layer.name
        for layer in run.graph.groups.layers
        if any(policy.layer(layer.name).weight_bits < UNTOUCHED.weight_bits for policy in policies)
    ]
    if not layers:
        return None
    gone = [run.graph.groups.gone_layers(policy) for policy in policies]
    bits = [
        [
            None if name in vanished else policy.layer(name).weight_bits
            for policy, vanished in zip(policies, gone, strict=True)
        ]
        for name in layers
    ]
    heights = [[None if x is None else log2(x) for x in row] for row in bits]
    figure = _heat_map(heights, members, layers, 5, "%{text} bits")
    figure.update_traces(
        text=bits, zmin=1, colorbar={"tickvals": [1, 2, 3, 4, 5], "ticktext": [2, 4, 8, 16, 32]}
    )
    return figure


def _heat_map(
    values: Sequence[Sequence[float | None]],
    members: list[Trial],
    names: list[str],
    most: int,
    hover: str,
) -> Any:
    """Return a heat map with a row per name and a column per member of the front."""
    heat = go.Heatmap(
        z=values,
        x=[f"#{trial.number}" for trial in members],
        y=names,
        zmin=0,
        zmax=most,
        colorscale="Viridis",
        xgap=1,
        ygap=1,
        colorbar={"orientation": "h", "thickness": 10, "len": 0.9, "y": 1.0, "yanchor": "bottom"},
        hovertemplate=f"trial %{{x}}<br>%{{y}}<br>{hover}<extra></extra>",
    )
    figure = _styled(go.Figure(heat), min(1400, max(340, 18 * len(names) + 150)))
    short = [name if len(name) <= 22 else f"{name[:8]}…{name[-13:]}" for name in names]
    figure.update_yaxes(autorange="reversed", showgrid=False, tickvals=names, ticktext=short)
    figure.update_xaxes(title="trials on the front", type="category", showgrid=False)
    return figure


def parallel_figure(run: Run) -> Any:
    """Parallel coordinates of the front: a row per objective, a line per member, best left.

    Rows, not columns, so that names and ranges stay readable on a narrow screen; plain
    lines, not plotly's own, which need WebGL.
    """
    figure, members, goals = go.Figure(), run.front().members, run.goals
    spans = [sorted(goal.loss(shown(x).value(goal.name)) for x in members) for goal in goals]
    for label, colour in (*_colours(run).items(), (DENSE, STAR)):
        xs: list[float | None] = []
        own = [each for each in members if each.searcher == label]
        for trial in own:
            losses = [goal.loss(shown(trial).value(goal.name)) for goal in goals]
            scaled = zip(losses, spans, strict=True)
            xs += [(a - span[0]) / ((span[-1] - span[0]) or 1.0) for a, span in scaled] + [None]
        if own:
            ys = [*range(len(goals)), None] * len(own)
            text = [described(trial, goals) for trial in own for _ in (*goals, None)]
            style = {"line": {"color": colour, "width": 1.25}, "opacity": 0.75}
            lines = go.Scatter(
                x=xs, y=ys, name=escape(label), mode="lines+markers", text=text, **style
            )
            figure.add_trace(lines.update(hovertemplate="%{text}<extra></extra>"))
    ticks = [
        f"{goal.name}<br>{readable(goal.loss(span[0]), goal.unit)}"
        f" – {readable(goal.loss(span[-1]), goal.unit)}"
        for goal, span in zip(goals, spans, strict=True)
    ]
    _styled(figure, 90 * len(goals) + 110)
    figure.update_yaxes(tickvals=list(range(len(goals))), ticktext=ticks)
    figure.update_yaxes(range=[len(goals) - 0.85, -0.15])
    figure.update_xaxes(tickvals=[0, 1], ticktext=["best", "worst"], range=[-0.06, 1.08])
    return figure


def _add_dots(figure: Any, run: Run, axes: tuple[Axis, Axis], on_front: set[int]) -> None:
    dots: dict[str, list[Trial]] = {"lower rungs": [], "breaks a constraint": []}
    dots |= {label: [] for label in _colours(run)}
    for trial in run.completed():
        if trial.rung < run.top_rung and trial.number:
            dots["lower rungs"].append(trial)
        elif trial.evaluation is not None and not trial.evaluation.is_feasible:
            dots["breaks a constraint"].append(trial)
        elif trial.number not in on_front and trial.searcher in dots:
            dots[trial.searcher].append(trial)
    for label, own in dots.items():
        colour = _colours(run).get(label, GREY)
        symbol = "x-thin-open" if label == "breaks a constraint" else "circle"
        symbol = "diamond-open" if labels(run).get(label) else symbol
        marker = {"color": colour, "size": 7, "symbol": symbol, "opacity": 0.6}
        group = escape(label)
        trace = _trace(run, own, axes, label, on_search=True, marker=marker, legendgroup=group)
        figure.add_trace(trace)


def _trace(
    run: Run,
    trials: Sequence[Trial],
    axes: tuple[Axis, Axis],
    name: str,
    *,
    on_search: bool = False,
    **style: Any,
) -> Any:
    places = [
        [axis.measured(x, x.evaluation if on_search else shown(x)).value for x in trials]
        for axis in axes
    ]
    text = [described(each, run.goals) for each in trials]
    figures = {"x": places[0], "y": places[1], "text": text}
    if style.get("mode") == "lines":
        style["hoverinfo"] = "skip"
    else:
        style |= {"mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    return go.Scatter(name=escape(name), **figures, **style)


def _add_curve(figure: Any, run: Run, name: str, trials: Iterable[Trial], **style: Any) -> None:
    front = Front(run.goals)
    counts, volumes = [], []
    for count, trial in enumerate(trials, 1):
        front.add(trial)
        volume = front.hypervolume()
        if volume is not None:
            counts.append(count)
            volumes.append(volume)
    if volumes:
        hover = "%{y:.4f} after %{x}"
        trace = go.Scatter(x=counts, y=volumes, name=escape(name), mode="lines", **style)
        figure.add_trace(trace.update(hovertemplate=hover))


def _staircase(members: Sequence[Trial], x: Axis, y: Axis) -> list[Trial]:
    """Return the members that no other one beats in the two shown axes, by the first."""
    stairs: list[Trial] = []
    lowest = inf
    for trial in sorted(members, key=lambda each: (x.loss(each), y.loss(each))):
        if y.loss(trial) < lowest:
            stairs.append(trial)
            lowest = y.loss(trial)
    return sorted(stairs, key=lambda each: x.measured(each, shown(each)).value)


def _bars(trials: Sequence[Trial], axes: tuple[Axis, Axis], colour: str) -> dict[str, Any]:
    """Return error bars for the axes whose intervals are known."""
    bars = {}
    for key, axis in zip(("error_x", "error_y"), axes, strict=True):
        measured = [axis.measured(each, shown(each)) for each in trials]
        if any(each.low is not None or each.high is not None for each in measured):
            above = [0.0 if x.high is None else max(0.0, x.high - x.value) for x in measured]
            below = [0.0 if x.low is None else max(0.0, x.value - x.low) for x in measured]
            style = {"color": colour, "thickness": 1, "width": 3}
            bars[key] = {"type": "data", "array": above, "arrayminus": below, **style}
    return bars


def _colours(run: Run) -> dict[str, str]:
    """Return label → colour; searchers first, so that the same job looks the same."""
    known = labels(run)
    ordered = sorted(known, key=lambda label: known[label])
    return {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(ordered)}


def _styled(figure: Any, height: int) -> Any:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
    )
    grid = {"gridcolor": "rgba(139,146,155,0.22)", "zeroline": False, "automargin": True}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure
