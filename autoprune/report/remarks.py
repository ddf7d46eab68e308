"""What must be read beside the values of trials: notes, missed constraints, forecasts, groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.numbers import readable
from autoprune.run_view import RunView
from autoprune.trial import Measurement, Trial, shown

_FEW = 6


def remarks(trials: Sequence[Trial]) -> list[str]:
    """Return what was noted of the trials' values, each remark once, and what they miss."""
    found: dict[str, list[int]] = defaultdict(list)
    for trial in trials:
        evaluation = shown(trial)
        for metric, measured in evaluation.measurements.items():
            if measured.note:
                found[f"{metric}: {measured.note}"].append(trial.number)
        for text in evaluation.misses:
            found[f"misses {text}"].append(trial.number)
        for note in evaluation.deployment.notes if evaluation.deployment else ():
            said = note.partition(": ")[2]
            # Which layers those are differs from trial to trial.
            found[note if len(trials) == 1 or not said else f"{said}, in some layers"].append(
                trial.number
            )
    return [f"{_numbers(numbers, len(trials))} {text}" for text, numbers in found.items()]


def is_deployed(trial: Trial, metric: str) -> bool:
    """Say whether a shown value was measured on the network that is deployed."""
    deployment = shown(trial).deployment
    return deployment is not None and metric in deployment.metrics


def deployed(trials: Sequence[Trial]) -> str | None:
    """Return which values were measured on the network that is deployed; None if none was."""
    found = [x for trial in trials if (x := shown(trial).deployment) and x.metrics]
    if not found:
        return None
    targets = ", ".join(sorted({each.target for each in found}))
    metrics = ", ".join(dict.fromkeys(name for each in found for name in each.metrics))
    return (
        f"measured on the deployed network ({targets}): {metrics}; all else on the same network "
        "in PyTorch, which rounds alike"
    )


def _numbers(numbers: list[int], count: int) -> str:
    if len(numbers) == count > 1:
        return "all:"
    few = ", ".join(f"#{number}" for number in numbers[:_FEW])
    return f"{few} and {len(numbers) - _FEW} more:" if len(numbers) > _FEW else f"{few}:"


def forecasts(run: RunView) -> list[str]:
    """Return how well metrics were predicted before they were measured, a line each."""
    lines = []
    for metric, error in run.forecast_errors().items():
        rank = error.rank_correlation
        ranks = "" if rank is None else f", rank correlation {rank:.3f}"
        lines.append(
            f"{metric} was predicted {error.count} times before it was measured: off by "
            f"{100 * error.mape:.1f} % on average{ranks}, {100 * error.inside:.0f} % within the "
            "predicted 95 % interval"
        )
    return lines


def details(trial: Trial) -> list[str]:
    """Return the parts that values come from or go with, a line per metric; groups apart."""
    lines = []
    for metric, measured in shown(trial).measurements.items():
        parts = {x: each for x, each in measured.parts.items() if not _is_group(x)}
        if parts:
            own = ", ".join(f"{name} {_plain(each)}" for name, each in parts.items())
            lines.append(f"{metric}: {own}")
    deployment = shown(trial).deployment
    if deployment is not None and deployment.file_bytes:
        size = readable(deployment.file_bytes, "bytes")
        lines.append(f"deployed on {deployment.target}, a file of {size} bytes")
    return lines


def _plain(measured: Measurement) -> str:
    if measured.low is None or measured.high is None:
        return f"{measured.value:.4g}"
    return f"{measured.value:.4g} ({measured.low:.4g} – {measured.high:.4g})"


def _is_group(part: str) -> bool:
    """Say whether a part is that of a group of samples, as in `sex=Female`."""
    return "=" in part


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group's value of a metric: of the dense network and of another one."""

    metric: str
    group: str
    dense: str
    value: str


def by_group(run: RunView, trial: Trial) -> list[GroupRow]:
    """Return every group's value, of each metric that groups are judged by.

    Metrics that come from the same values, as errors of groups, are shown once.
    """
    if run.dense is None or run.dense.evaluation is None:
        return []
    base = run.dense.report if trial.report is not None else run.dense.evaluation
    rows = []
    known: list[Mapping[str, Measurement]] = []
    for metric, measured in shown(trial).measurements.items():
        if measured.parts in known:
            continue
        known.append(measured.parts)
        dense = base.measurements.get(metric) if base is not None else None
        for group, own in measured.parts.items():
            if _is_group(group):
                other = None if dense is None else dense.parts.get(group)
                rows.append(GroupRow(metric, group, _text(other), _text(own)))
    return rows


def _text(measured: Measurement | None) -> str:
    if measured is None:
        return ""
    text = readable(measured.value, "share")
    if measured.low is None or measured.high is None:
        return text
    return f"{text} ({readable(measured.low, 'share')} – {readable(measured.high, 'share')})"
