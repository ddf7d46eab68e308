"""What people read of a run in words and numbers: searchers beside baselines, one trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import isfinite

from autoprune.contracts.objective import Goal
from autoprune.controller.roster import WARM_START, labels_of
from autoprune.front import Front
from autoprune.numbers import readable
from autoprune.run import Run
from autoprune.trial import Measurement, Trial, TrialState, shown

WHOLE = "front"


@dataclass(frozen=True, slots=True)
class SearcherRow:
    """One searcher's share: its trials by outcome, and the hypervolume of them alone.

    `hypervolume` is measured on the search split, `report_hypervolume` is that of the same
    trials on the report split; None where nothing was measured. `gained` is what its trials
    added to the hypervolume of all searchers together, each by its turn; baselines add
    nothing to it. `seconds` is what the evaluations on the search split took.
    """

    label: str
    is_baseline: bool
    trials: int
    failed: int
    infeasible: int
    on_front: int
    hypervolume: float | None
    report_hypervolume: float | None
    gained: float | None
    seconds: float


def summarise(run: Run) -> list[SearcherRow]:
    """Return a row for the whole front, then one for each searcher and baseline."""
    trials = [each for each in run.history.trials.values() if each.number != 0]
    whole = run.front()
    on_front = {trial.number for trial in whole.members}
    reported = run.front(on_report=True)
    rows = [_row(WHOLE, trials, on_front, whole, reported)]
    gained = _gains(run)
    for label, is_baseline in labels(run).items():
        own = [each for each in trials if each.searcher == label]
        fronts = run.front(label), run.front(label, on_report=True)
        row = _row(label, own, on_front, *fronts, is_baseline=is_baseline)
        rows.append(replace(row, gained=gained.get(label)))
    return rows


def labels(run: Run) -> dict[str, bool]:
    """Return label → is it a baseline, for everybody who may have trials in the run."""
    found = {label: is_baseline for label, (_, is_baseline) in labels_of(run.job).items()}
    if any(each.searcher == WARM_START for each in run.history.trials.values()):
        found[WARM_START] = False
    return found


def _gains(run: Run) -> dict[str, float]:
    """Return what every searcher's trials added to the common hypervolume, in their order."""
    front = Front(run.goals)
    gains = {label: 0.0 for label, is_baseline in labels(run).items() if not is_baseline}
    volume = 0.0
    for trial in run.completed():
        is_dense = trial.number == 0
        if trial.rung == run.top_rung and (is_dense or trial.searcher in gains):
            front.add(trial)
            grown = front.hypervolume() or 0.0
            if not is_dense:
                gains[trial.searcher] += grown - volume
            volume = grown
    return gains


def described(trial: Trial, goals: Sequence[Goal]) -> str:
    """Return a completed trial as lines of HTML: number, searcher, rung, every objective.

    Values are those of the report split where it was measured, the search split's beside.
    """
    lines = [f"<b>trial {trial.number}</b> · {escape(trial.searcher)} · rung {trial.rung}"]
    for goal in goals:
        measured = shown(trial).measurements[goal.name]
        text = f"{goal.name} {readable(measured.value, goal.unit)}"
        if bounds := interval(measured, goal.unit):
            text += f" ({bounds})"
        if trial.report is not None and trial.evaluation is not None:
            searched = trial.evaluation.value(goal.name)
            if isfinite(searched) and searched != measured.value:
                text += f" on T, {readable(searched, goal.unit)} on V"
        lines.append(escape(text))
    return "<br>".join(lines)


def interval(measured: Measurement, unit: str) -> str:
    """Return the interval of a measurement for people, empty where none is known."""
    if measured.low is None or measured.high is None:
        return ""
    return f"{readable(measured.low, unit)} – {readable(measured.high, unit)}"


def _row(
    label: str,
    trials: Sequence[Trial],
    on_front: set[int],
    front: Front,
    reported: Front,
    *,
    is_baseline: bool = False,
) -> SearcherRow:
    return SearcherRow(
        label,
        is_baseline,
        trials=sum(each.state is not TrialState.INFEASIBLE for each in trials),
        failed=sum(each.state is TrialState.FAILED for each in trials),
        infeasible=sum(each.state is TrialState.INFEASIBLE for each in trials),
        on_front=sum(each.number in on_front for each in trials),
        hypervolume=front.hypervolume() if front.members else None,
        report_hypervolume=reported.hypervolume() if reported.members else None,
        gained=None,
        seconds=sum(each.evaluation.seconds for each in trials if each.evaluation),
    )
