"""Which trials a query of the front asks for, in which order; checked and answered by an index."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autoprune.errors import InputError, Violation
from autoprune.index.job_index import JobIndex
from autoprune.pick import Pick
from cluster.proto.autoprune.v1 import front_service_pb2 as pb
from cluster.service.refusal import invalid

_MOST_BOUNDS = 100
_DENSE = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The trials that a query means, best first, as of the event `sequence`."""

    sequence: int
    numbers: np.ndarray
    hypervolume: float | None


def answered(request: pb.QueryFrontRequest, index: JobIndex, sequence: int) -> Answer:
    """Return the answer as of `sequence`; a `Refusal` names every field that makes no sense.

    Raises `InputError` where nothing can be picked: the front is empty.
    """
    view = index.front(sequence)
    problems = _problems(request, index)
    if problems:
        raise invalid(problems)
    numbers = index.completed(sequence) if request.everything else view.table.members
    for bound in request.bounds:
        numbers = numbers[_holds(bound, index, numbers, sequence)]
    if request.HasField("pick"):
        numbers = np.array([_picked(request, index, sequence)])
    else:
        numbers = _ordered(request.sort or index.goals()[0].name, index, numbers, sequence)
    if request.top:
        numbers = numbers[: request.top]
    return Answer(sequence, numbers, view.table.hypervolume)


def pick_of(text: str) -> Pick:
    """Read how a trial is named; a `Refusal` where it is not."""
    try:
        return Pick.parse(text[:1000])
    except InputError as error:
        raise invalid([Violation("trial", text[:200], str(error))]) from None


def _problems(request: pb.QueryFrontRequest, index: JobIndex) -> list[Violation]:
    problems: list[Violation] = []
    known = ", ".join(index.metrics) or "none yet"
    if len(request.bounds) > _MOST_BOUNDS:
        problems.append(Violation("bounds", len(request.bounds), f"at most {_MOST_BOUNDS}"))
    for place, bound in enumerate(request.bounds[:_MOST_BOUNDS]):
        path = f"bounds.{place}"
        if bound.metric not in index.metrics:
            rule = f"a metric of this job: {known}"
            problems.append(Violation(f"{path}.metric", bound.metric[:200], rule))
        for name in ("least", "most"):
            value = getattr(bound, name)
            if bound.HasField(name) and not math.isfinite(value):
                problems.append(Violation(f"{path}.{name}", str(value), "a finite number"))
    if request.sort and request.sort not in index.metrics:
        problems.append(Violation("sort", request.sort[:200], f"a metric of this job: {known}"))
    if request.top < 0:
        problems.append(Violation("top", request.top, "0 or more"))
    if request.HasField("pick") and (request.bounds or request.everything):
        rule = "a pick is one of the whole front; with bounds, use sort and top"
        problems.append(Violation("pick", "with bounds", rule))
    return problems + _pick_problems(request.pick, index)


def _pick_problems(pick: pb.Pick, index: JobIndex) -> list[Violation]:
    names = [goal.name for goal in index.goals()]
    rule = f"an objective of this job: {', '.join(names)}"
    kind = pick.WhichOneof("pick")
    if kind == "knee" and not pick.knee:
        return [Violation("pick.knee", False, "true, or another pick")]
    if kind == "best" and pick.best not in names:
        return [Violation("pick.best", pick.best[:200], rule)]
    if kind != "weights":
        return []
    given = pick.weights.weights
    problems = [
        Violation(f"pick.weights.{x[:100]}", x[:100], rule) for x in given if x not in names
    ]
    problems += [
        Violation(f"pick.weights.{name[:100]}", str(weight), "a finite number, 0 or more")
        for name, weight in given.items()
        if not 0.0 <= weight < math.inf
    ]
    if not any(given.values()):
        problems.append(Violation("pick.weights", dict(given), "one weight at least above 0"))
    return problems


def _holds(bound: pb.Bound, index: JobIndex, numbers: np.ndarray, sequence: int) -> np.ndarray:
    """Say which trials are within a bound; shape (n,)."""
    scale = 1.0
    if bound.of_dense:
        scale = float(index.values(bound.metric, [_DENSE], sequence)[0])
    values = index.values(bound.metric, numbers, sequence)
    holds: np.ndarray = np.isfinite(values)
    if bound.HasField("least"):
        holds &= values >= scale * bound.least
    if bound.HasField("most"):
        holds &= values <= scale * bound.most
    return holds


def _picked(request: pb.QueryFrontRequest, index: JobIndex, sequence: int) -> int:
    table = index.front(sequence).table
    kind = request.pick.WhichOneof("pick")
    if kind == "best":
        return table.best(request.pick.best)
    return table.weighted(request.pick.weights.weights) if kind == "weights" else table.knee()


def _ordered(metric: str, index: JobIndex, numbers: np.ndarray, sequence: int) -> np.ndarray:
    """Return trials best first by a metric; of equals the lowest number first."""
    sign = {goal.name: goal.loss(1.0) for goal in index.goals()}.get(metric, 1.0)
    if not len(numbers):
        return numbers
    keys = sign * index.values(metric, numbers, sequence)
    ordered: np.ndarray = numbers[np.lexsort((numbers, keys))]
    return ordered
