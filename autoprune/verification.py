"""An exported file measured from scratch: is it what it says of itself?

    found = verify(Path("knee.onnx"))               # on the data that the file names
    found.rows                                      # claimed beside measured
    found.agrees                                    # False where a value is another one

The file is run by its target's own runtime, and nothing of the run that it came from is needed
but the data. Whatever follows from its outputs is measured again, and its milliseconds; costs
that follow from the policy are not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.candidate import digest_of
from autoprune.contracts.exporter import Network, format_of
from autoprune.contracts.objective import Objective, Predictions, Stage, Subject
from autoprune.data.dataset import Dataset, Part
from autoprune.errors import ExportError
from autoprune.evaluation.inference import BATCH
from autoprune.evaluation.material import load_dataset
from autoprune.exported_file import identify
from autoprune.graph.cost import Costs
from autoprune.job.spec import Job
from autoprune.metrics import metrics_of
from autoprune.trial import Measurement
from autoprune.validation import validated

LATENCY = "latency_ms"
# Other kernels round otherwise, and a network may have been judged in bfloat16.
_POINTS, _SHARE = 0.005, 0.01
_TIMED_S, _FEWEST_PASSES = 0.5, 20


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: what the file claims, and what was measured; `agrees` is None where these
    cannot be compared, and `why` says why.
    """

    metric: str
    unit: str
    claimed: Measurement
    measured: Measurement | None
    agrees: bool | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found out about a file: its format, its provenance, and its metrics."""

    path: Path
    format: str
    provenance: Mapping[str, Any]
    split: str
    samples: int
    is_same_data: bool
    rows: tuple[Row, ...]

    @property
    def agrees(self) -> bool:
        """Say whether nothing that could be compared is another value than claimed."""
        return all(row.agrees is not False for row in self.rows)


def verify(path: Path, data: Mapping[str, Any] | None = None) -> Verification:
    """Measure an exported file on `data` (a job's `data`), without it on that of its job.

    Raises `ExportError` for a file that is not whole, and `DataError`, `JobError` for data that
    cannot be used.
    """
    exporter, provenance = identify(path)
    job = _job_of(path, provenance, data)
    metrics = metrics_of(job)
    claims = _claims(path, provenance, metrics)
    dataset, split = load_dataset(job), provenance["split"]
    part = dataset.search if split == "search" else dataset.report
    count = min(provenance["samples"], len(part))
    is_same = digest_of(part, count) == provenance["samples_sha256"]
    run = exporter.opened(path)
    predictions = _predictions(run, dataset, part, count, path)
    measured = _measured(metrics, predictions)
    if LATENCY in claims:
        measured[LATENCY] = _milliseconds(run, dataset.normalise(part.inputs[:1]))
    rows = tuple(
        _row(name, metrics[name].unit, each, measured.get(name), is_same)
        for name, each in claims.items()
    )
    return Verification(path, format_of(exporter), provenance, split, count, is_same, rows)


def _job_of(path: Path, provenance: Mapping[str, Any], data: Mapping[str, Any] | None) -> Job:
    """Return a job with a file's model, data and objectives."""
    keys = ("model", "objectives", "constraints", "split", "samples", "samples_sha256")
    missing = [x for x in (*keys, "measurements", "data") if x not in provenance]
    if missing:
        raise ExportError(f"{path} claims nothing that could be verified: no {missing[0]} in it")
    raw = {key: provenance[key] for key in ("model", "objectives", "constraints")}
    model = {**raw["model"], "checkpoint": None}
    raw |= {"model": model, "data": provenance["data"] if data is None else data}
    return validated(raw, source=str(path))


def _predictions(run: Network, dataset: Dataset, part: Part, count: int, path: Path) -> Predictions:
    inputs = part.inputs[:count].split(BATCH)
    try:
        logits = torch.cat([run(dataset.normalise(each).contiguous()) for each in inputs])
    except Exception as error:  # runtimes raise what they like
        shape = list(part.inputs.shape[1:])
        raise ExportError(f"{path} does not take samples of shape {shape}: {error}") from error
    groupings = tuple(replace(each, codes=each.codes[:count]) for each in part.groupings)
    return Predictions(logits.float(), part.labels[:count], groupings)


def _claims(
    path: Path, provenance: Mapping[str, Any], metrics: Mapping[str, Objective]
) -> dict[str, Measurement]:
    """Return what a file claims; raises `ExportError` where none of it can be measured again."""
    is_known = provenance["split"] in ("search", "report") and type(provenance["samples"]) is int
    claims: dict[str, Measurement] = {}
    try:
        for name, each in provenance["measurements"].items():
            claims[name] = found = Measurement.from_json(each)
            bounds = [x for x in (found.low, found.high) if x is not None]
            is_known &= all(map(math.isfinite, (found.value, *bounds)))
    except (AttributeError, TypeError, ValueError, IndexError):
        is_known = False
    if not is_known:
        raise ExportError(f"{path} makes no claims that autoprune has written")
    if strays := claims.keys() - metrics.keys():
        listed = ", ".join(sorted(strays))
        raise ExportError(f"{path} claims what its job does not measure: {listed}")
    if not any(_is_told_by_outputs(metrics[name]) for name in claims):
        raise ExportError(
            f"{path} is whole, but nothing that it claims follows from outputs "
            f"({', '.join(claims) or 'it claims nothing'}), so nothing can be measured again"
        )
    return claims


def _measured(metrics: Mapping[str, Objective], predictions: Predictions) -> dict[str, Measurement]:
    """Return whatever follows from outputs alone."""
    subject = Subject(Costs(0, 0, 0), predictions)
    return {
        name: metric.measure(subject)
        for name, metric in metrics.items()
        if _is_told_by_outputs(metric)
    }


def _is_told_by_outputs(metric: Objective) -> bool:
    return metric.stage is Stage.PREDICTIONS and not metric.compares


def _milliseconds(run: Network, sample: Tensor) -> Measurement:
    """Return the median milliseconds of one sample, passes one after the other."""
    sample = sample.contiguous()
    taken: list[float] = []
    run(sample)
    while len(taken) < _FEWEST_PASSES or sum(taken) < _TIMED_S:
        begun = time.perf_counter()
        run(sample)
        taken.append(time.perf_counter() - begun)
    return Measurement(1e3 * statistics.median(taken))


def _row(
    name: str, unit: str, claimed: Measurement, measured: Measurement | None, is_same: bool
) -> Row:
    if measured is None:
        return Row(name, unit, claimed, None, None, "not told by outputs")
    if name == LATENCY:
        return Row(name, unit, claimed, measured, None, "of this machine, batch 1, one thread")
    away = abs(claimed.value - measured.value)
    if is_same:
        return Row(name, unit, claimed, measured, away <= max(_POINTS, _SHARE * abs(claimed.value)))
    if measured.low is None or measured.high is None:
        return Row(name, unit, claimed, measured, None, "other samples, and no interval")
    is_inside = measured.low <= claimed.value <= measured.high
    return Row(name, unit, claimed, measured, is_inside, "other samples: by the 95 % interval")
