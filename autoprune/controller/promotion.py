"""Promotion through the rungs by non-dominated rank, without a generation barrier.

Asynchronous successive halving (Li et al., MLSys 2020) for several objectives: as soon as
a trial stands among the best 1/η of its rung, by non-dominated rank and then by crowding
distance, it may go one rung up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.trial import Trial


def ranked(trials: Sequence[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """Return feasible, completed `trials` from best to worst: rank, then crowding, then number.

    Those that keep the soft constraints come before those that do not.
    """
    candidates = [each for each in trials if each.evaluation and each.evaluation.is_feasible]
    if not candidates:
        return []
    losses = np.array(
        [
            [goal.loss(each.evaluation.value(goal.name)) for goal in goals]
            for each in candidates
            if each.evaluation is not None
        ]
    )
    import moocore

    ranks = np.asarray(moocore.pareto_rank(losses))
    crowding = np.empty(len(candidates))
    for rank in np.unique(ranks):
        crowding[ranks == rank] = crowding_distance(losses[ranks == rank])

    def place(index: int) -> tuple[object, ...]:
        trial = candidates[index]
        misses = trial.evaluation is not None and bool(trial.evaluation.misses)
        return misses, ranks[index], -crowding[index], trial.number

    return [candidates[index] for index in sorted(range(len(candidates)), key=place)]


def crowding_distance(losses: np.ndarray) -> np.ndarray:
    """Return the crowding distance of every row, shape (n,) (Deb et al., 2002, section III-B).

    `losses` has shape (n, m); the extremes of each objective get infinity.
    """
    count = len(losses)
    distance = np.zeros(count)
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if count > 2 and span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance


def promotable(completed: Sequence[Trial], goals: Sequence[Goal], one_in: int) -> list[Trial]:
    """Return the trials of one rung that may go up, best first."""
    return ranked(completed, goals)[: len(completed) // one_in]


def judged(count: int) -> int:
    """Return how many of `count` completed trials are ranked: all of few, most of many.

    Ranking costs more than linear time, so it is done again for every trial up to 128, then
    for every second one, from 256 on for every fourth …
    """
    return count - count % max(1, 2 ** (count.bit_length() - 7)) if count else 0
