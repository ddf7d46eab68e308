"""The front as a picture: SVG that follows the reader's light or dark theme.

    drawn(run, trial)            # the text of an SVG file, the same for the same log

Written by hand: a browser then takes the colours from its theme (`prefers-color-scheme`), texts
stay texts, every dot says on hovering what it is, and no other library decides how it looks.
Colours stand in rules for both themes; whoever knows no themes, draws the light one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from autoprune.contracts.objective import Goal
from autoprune.numbers import readable
from autoprune.trial import Measurement, Trial, TrialState, shown

if TYPE_CHECKING:
    from autoprune.run_view import RunView

_WIDTH, _HEIGHT = 760, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 64, 62
_STAR = "M0,-9 2.2,-3 8.6,-2.8 3.5,1.1 5.3,7.3 0,3.7 -5.3,7.3 -3.5,1.1 -8.6,-2.8 -2.2,-3Z"
_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",sans-serif;font-size:13px;fill:#3d444d}
.title{font-size:14px;font-weight:600;fill:#1f2328}.tick{font-size:12px;fill:#59636e}
.paper{fill:#ffffff;stroke:#d1d9e0}.grid{stroke:#e4e8ec;stroke-width:1}
.stairs{fill:none;stroke:#3d85c6;stroke-width:1.5;stroke-opacity:.55}
.bar{stroke:#3d85c6;stroke-width:1.25;stroke-opacity:.5}
.other{fill:#8b929b;fill-opacity:.45}
.member{fill:#3d85c6;stroke:#ffffff;stroke-width:1.5}
.dense{fill:#e0a800;stroke:#ffffff;stroke-width:1.2}
.ring{fill:none;stroke:#c8401f;stroke-width:2.5}.core{fill:#c8401f}
.name{font-weight:600;stroke:#ffffff;stroke-width:4px;stroke-linejoin:round;paint-order:stroke}
.chosen{fill:#c8401f}
@media(prefers-color-scheme:dark){
text{fill:#d1d7e0}.title{fill:#f0f6fc}.tick{fill:#9198a1}
.paper{fill:#0d1117;stroke:#3d444d}.grid{stroke:#262c36}
.stairs,.bar{stroke:#6cb0f0}.member{fill:#6cb0f0;stroke:#0d1117}.dense{stroke:#0d1117}
.ring{stroke:#ff8f6b}.core,.chosen{fill:#ff8f6b}.name{stroke:#0d1117}}
"""


@dataclass(frozen=True, slots=True)
class Axis:
    """One side of the picture: a goal, or the trial's number where there is none; its span of
    values, and where on the paper that lies.
    """

    goal: Goal | None
    low: float
    high: float
    begin: float
    end: float

    def place(self, value: float) -> float:
        """Return where a value lies, in pixels."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def holds(self, value: float) -> bool:
        """Say whether a value lies on the axis."""
        return self.low <= value <= self.high

    @property
    def title(self) -> str:
        """Name and unit."""
        if self.goal is None:
            return "trial, in the order of asking"
        return f"{self.goal.name} [{'%' if self.goal.unit == 'share' else self.goal.unit}]"

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yield round values and how they are written."""
        step = _round_step((self.high - self.low) / 7)
        for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield number * step, _tick(number * step, step, self.goal)


def axes_of(run: RunView) -> tuple[Goal | None, Goal]:
    """Return what lies across and what stands up: of the goals the first cost and quality."""
    goals = run.goals
    if len(goals) == 1:
        return None, goals[0]
    quality = next((x for x in goals if x.unit in ("share", "nats")), goals[0])
    across = next((x for x in goals if x is not quality and x.unit not in ("share", "nats")), None)
    return across or next(x for x in goals if x is not quality), quality


def drawn(run: RunView, chosen: Trial) -> str:
    """Return the picture: a marker for every member of the front, the chosen trial and dense."""
    members = run.front().members
    dense = run.dense if run.dense is not None and run.dense.evaluation is not None else None
    across, up = axes_of(run)
    important = [*members, chosen, *([dense] if dense else [])]
    x = _axis(across, important, _LEFT, _WIDTH - _RIGHT)
    y = _axis(up, important, _HEIGHT - _BOTTOM, _TOP)
    others = _others(run, {each.number for each in important})
    seen = [each for each in others if _inside(each, x, y)]
    label = f"Front of {run.job.name}: {up.name} against {x.title}, trial {chosen.number} marked"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{_said(label)}">',
            f"<style>{_STYLE}</style>",
            f'<clipPath id="plot"><rect x="{_LEFT}" y="{_TOP}" '
            f'width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT - _TOP - _BOTTOM}"/></clipPath>',
            f'<rect class="paper" x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" '
            'rx="8"/>',
            *_scales(x, y),
            *_legend(run, len(members), len(others) - len(seen), bool(seen), bool(dense)),
            *(_dot(each, x, y, "other", 3.2, run, on_search=True) for each in seen),
            _stairs(members, x, y),
            *(bar for each in members for bar in _bars(each, x, y)),
            *(_dot(each, x, y, "member", 6, run) for each in members),
            *([_dense(dense, x, y, run, is_named=dense is not chosen)] if dense else []),
            *_chosen(chosen, x, y, run, dense),
            "</svg>\n",
        ]
    )


def _others(run: RunView, known: set[int]) -> list[Trial]:
    """Return the completed trials of the top rung beside those that matter."""
    top = run.top_rung
    return [
        each
        for each in run.trials()
        if each.state is TrialState.COMPLETED and each.rung == top and each.number not in known
    ]


def _measured(trial: Trial, goal: Goal | None, *, on_search: bool = False) -> Measurement:
    if goal is None:
        return Measurement(float(trial.number))
    evaluation = trial.evaluation if on_search else shown(trial)
    assert evaluation is not None, "only completed trials are drawn"
    return evaluation.measurements.get(goal.name, Measurement(math.nan))


def _axis(goal: Goal | None, trials: Sequence[Trial], begin: float, end: float) -> Axis:
    """Return an axis that shows the front whole: far worse trials lie outside of it."""
    values = [x.value for each in trials if math.isfinite((x := _measured(each, goal)).value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.12 * (high - low) or 0.5 * abs(high) or 1.0
    # A scale that nearly reaches zero shows shares truly where it does reach it.
    low = 0.0 if 0.0 <= low <= 0.45 * high else low - pad
    return Axis(goal, low, high + pad, begin, end)


def _round_step(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(x * power for x in (1, 2, 5, 10) if x * power >= step * (1 - 1e-9))


def _tick(value: float, step: float, goal: Goal | None) -> str:
    if goal is not None and goal.unit == "share":
        value, step = 100 * value, 100 * step
        return f"{value:.{_digits(step)}f}"
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{_digits(step / size)}f} {prefix}"
    return f"{value:.{_digits(step)}f}" if value else "0"


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _scales(x: Axis, y: Axis) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value, text in y.ticks():
        at = _px(y.place(value))
        yield f'<line class="grid" x1="{_LEFT}" y1="{at}" x2="{right}" y2="{at}"/>'
        yield _text(_LEFT - 9, y.place(value) + 4, text, "tick", "end")
    for value, text in x.ticks():
        at = _px(x.place(value))
        yield f'<line class="grid" x1="{at}" y1="{_TOP}" x2="{at}" y2="{bottom}"/>'
        yield _text(x.place(value), bottom + 19, text, "tick", "middle")
    yield _text((_LEFT + right) / 2, _HEIGHT - 16, x.title, "axis", "middle")
    middle = _px((_TOP + bottom) / 2)
    yield (
        f'<text class="axis" transform="translate(22 {middle}) rotate(-90)" '
        f'text-anchor="middle">{_said(y.title)}</text>'
    )


def _legend(
    run: RunView, members: int, outside: int, has_others: bool, has_dense: bool
) -> Iterator[str]:
    yield _text(_LEFT, 27, f"The front of {run.job.name}", "title", "start")
    more = f" (and {outside} outside)" if outside else ""
    entries = [
        ('<circle class="key ring" r="7"/><circle class="key core" r="3.4"/>', "this network"),
        ('<circle class="member-key member" r="6"/>', f"front, {members}"),
    ]
    if has_dense:
        entries.append((f'<path class="key dense" d="{_STAR}"/>', "dense network"))
    if has_others:
        entries.append(('<circle class="key other" r="3.2"/>', f"other trials{more}"))
    place = float(_LEFT + 8)
    for mark, text in entries:
        yield f'<g transform="translate({_px(place)} 46)">{mark}</g>'
        yield _text(place + 13, 50.5, text, "tick", "start")
        place += 40 + 6.6 * len(text)


def _dot(
    trial: Trial,
    x: Axis,
    y: Axis,
    kind: str,
    radius: float,
    run: RunView,
    *,
    on_search: bool = False,
) -> str:
    places = [
        _px(axis.place(_measured(trial, axis.goal, on_search=on_search).value)) for axis in (x, y)
    ]
    return (
        f'<circle class="{kind}" data-trial="{trial.number}" cx="{places[0]}" cy="{places[1]}" '
        f'r="{radius}"><title>{_told(trial, run, on_search=on_search)}</title></circle>'
    )


def _inside(trial: Trial, x: Axis, y: Axis) -> bool:
    return all(a.holds(_measured(trial, a.goal, on_search=True).value) for a in (x, y))


def _stairs(members: Sequence[Trial], x: Axis, y: Axis) -> str:
    """Return the line between members that none beats in what is shown: the best at hand."""
    way: list[str] = []
    best = math.inf
    for trial in sorted(members, key=lambda each: (_loss(each, x), _loss(each, y))):
        if _loss(trial, y) < best:
            best = _loss(trial, y)
            at, height = map(_px, _place(trial, x, y))
            way.append(f"H{at}V{height}" if way else f"M{at},{height}")
    return f'<path class="stairs" d="{"".join(way)}"/>' if len(way) > 1 else ""


def _loss(trial: Trial, axis: Axis) -> float:
    value = _measured(trial, axis.goal).value
    return value if axis.goal is None else axis.goal.loss(value)


def _bars(trial: Trial, x: Axis, y: Axis) -> Iterator[str]:
    """Yield the 95 % intervals of a trial."""
    at, height = map(_px, _place(trial, x, y))
    for axis in (x, y):
        bounds = _measured(trial, axis.goal)
        if bounds.low is None or bounds.high is None:
            continue
        low, high = _px(axis.place(bounds.low)), _px(axis.place(bounds.high))
        ends = (low, height, high, height) if axis is x else (at, low, at, high)
        names = zip(("x1", "y1", "x2", "y2"), ends, strict=True)
        lines = " ".join(f'{name}="{value}"' for name, value in names)
        yield f'<line class="bar" clip-path="url(#plot)" {lines}/>'


def _dense(trial: Trial, x: Axis, y: Axis, run: RunView, *, is_named: bool) -> str:
    at, height = _place(trial, x, y)
    star = (
        f'<path class="dense" data-trial="{trial.number}" transform="translate({_px(at)} '
        f'{_px(height)})" d="{_STAR}"><title>{_told(trial, run)}</title></path>'
    )
    # Above it, where a label beside a neighbour leaves room.
    return star + (_text(at, height - 16, "dense", "name", "middle") if is_named else "")


def _chosen(trial: Trial, x: Axis, y: Axis, run: RunView, dense: Trial | None) -> Iterator[str]:
    at, height = _place(trial, x, y)
    room = _WIDTH - _RIGHT - at
    if dense is not None and dense is not trial:
        beside, level = _place(dense, x, y)
        if beside > at and abs(level - height) < 40:
            room = min(room, beside - 24 - at)
    centre = f'cx="{_px(at)}" cy="{_px(height)}"'
    yield f'<circle class="core" {centre} r="3.4"/>'
    yield (
        f'<circle class="ring" data-trial="{trial.number}" {centre} r="10">'
        f"<title>{_told(trial, run)}</title></circle>"
    )
    # On the left where there is no room on the right.
    anchor, place = ("start", at + 14) if room > 100 else ("end", at - 14)
    yield _text(place, height - 9, f"trial {trial.number}", "name chosen", anchor)


def _place(trial: Trial, x: Axis, y: Axis) -> tuple[float, float]:
    """Return where a trial lies, in pixels."""
    return x.place(_measured(trial, x.goal).value), y.place(_measured(trial, y.goal).value)


def _told(trial: Trial, run: RunView, *, on_search: bool = False) -> str:
    """Return what a marker says on hovering."""
    split = "T" if trial.report is not None and not on_search else "V"
    values = []
    for goal in run.goals:
        value = _measured(trial, goal, on_search=on_search).value
        if math.isfinite(value):
            values.append(f"{goal.name} {readable(value, goal.unit)}")
    return _said(f"trial {trial.number} by {trial.searcher}, on {split}: {', '.join(values)}")


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    place = f'x="{_px(x)}" y="{_px(y)}"'
    return f'<text class="{kind}" {place} text-anchor="{anchor}">{_said(text)}</text>'


def _said(text: str) -> str:
    """Return a text for XML, which has no control characters."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return escape("".join(each if each.isprintable() else " " for each in plain))


def _px(value: float) -> str:
    return f"{value:.2f}"
