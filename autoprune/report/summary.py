"""Searchers beside baselines: what each found with its own trials."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controller.roster import labels_of
from autoprune.run import Run
from autoprune.trial import Trial, TrialState

WHOLE = "front"


@dataclass(frozen=True, slots=True)
class SearcherRow:
    """One searcher's share: its trials by outcome, and the hypervolume of them alone.

    `hypervolume` is measured on the search split, `report_hypervolume` is that of the same
    trials on the report split; None where nothing was measured.
    """

    label: str
    is_baseline: bool
    trials: int
    failed: int
    infeasible: int
    on_front: int
    hypervolume: float | None
    report_hypervolume: float | None


def summarise(run: Run) -> list[SearcherRow]:
    """Return a row for the whole front, then one for each searcher and baseline."""
    trials = [each for each in run.history.trials.values() if each.number != 0]
    rows = [_row(run, WHOLE, trials, is_baseline=False)]
    for label, (_, is_baseline) in labels_of(run.job).items():
        own = [each for each in trials if each.searcher == label]
        rows.append(_row(run, label, own, is_baseline=is_baseline))
    return rows


def _row(run: Run, label: str, trials: list[Trial], *, is_baseline: bool) -> SearcherRow:
    searcher = None if label == WHOLE else label
    front, reported = run.front(searcher), run.front(searcher, on_report=True)
    numbers = {trial.number for trial in trials}
    return SearcherRow(
        label,
        is_baseline,
        trials=sum(each.state is not TrialState.INFEASIBLE for each in trials),
        failed=sum(each.state is TrialState.FAILED for each in trials),
        infeasible=sum(each.state is TrialState.INFEASIBLE for each in trials),
        on_front=sum(each.number in numbers for each in run.front().members),
        hypervolume=front.hypervolume() if front.members else None,
        report_hypervolume=reported.hypervolume() if reported.members else None,
    )
