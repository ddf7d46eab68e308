"""AGE-MOEA-II: rank by dominance, spread by distances along the front's own shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.survival import Survival
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy.optimize import brentq

from ._pymoo import SteadyState, scaled

# A front with an exponent beyond these bounds is a corner for all that can be seen.
_EXPONENTS = (0.1, 20.0)
_TINY = 1e-8


class AGEMOEA2(SteadyState):
    """Evolves a population towards the front, spread by distances along its own shape.

    Panichella, "An improved Pareto front modeling algorithm for large-scale many-objective
    optimization", GECCO 2022, in a steady state.
    """

    tournament = staticmethod(binary_tournament)

    def _surviving(self, goals: int, population: int) -> Survival:
        return _Geometry()


class _Geometry(Survival):
    """Keeps the best ranks, and of the last one those with the highest scores.

    Written anew: pymoo's needs a compiler, and compares later fronts on two scales.
    """

    def __init__(self) -> None:
        super().__init__(filter_infeasible=True)

    def _do(
        self, problem: Problem, pop: Population, *_: Any, n_survive: int, **options: Any
    ) -> Population:
        losses = scaled(pop.get("F"))
        fronts = NonDominatedSorting().do(losses, n_stop_if_ranked=n_survive)
        corners = _corners(losses[fronts[0]])
        losses /= _intercepts(losses[fronts[0]], corners)
        exponent = _exponent(losses[fronts[0]], corners)
        kept: list[int] = []
        for rank, front in enumerate(fronts):
            if rank == 0:
                scores = _scores(losses[front], corners, exponent)
            else:
                scores = 1.0 / np.maximum(_norms(losses[front], exponent), _TINY)
            pop[front].set("rank", rank, "crowding", scores)
            best = np.argsort(-scores, kind="stable")
            kept.extend(front[best[: n_survive - len(kept)]])
        return pop[kept]


def _norms(losses: np.ndarray, exponent: float) -> np.ndarray:
    """Return Minkowski norms, shape (...), of losses, shape (..., goals)."""
    norms: np.ndarray = (np.abs(losses) ** exponent).sum(axis=-1) ** (1.0 / exponent)
    return norms


def _corners(front: np.ndarray) -> np.ndarray:
    """Return the places in `front` of the points nearest to the axes, at most one each."""
    found: list[int] = []
    for axis in range(min(front.shape)):
        aside = np.linalg.norm(np.delete(front, axis, axis=1), axis=1)
        aside[found] = np.inf
        found.append(int(aside.argmin()))
    return np.array(found)


def _intercepts(front: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return where the plane through the corners cuts the axes; ones where it does not."""
    goals = front.shape[1]
    if len(corners) == goals and np.linalg.matrix_rank(front[corners]) == goals:
        plane = np.linalg.solve(front[corners], np.ones(goals))
        if (plane > _TINY).all():
            cuts: np.ndarray = 1.0 / plane
            return cuts
    return np.ones(goals)


def _exponent(front: np.ndarray, corners: np.ndarray) -> float:
    """Return the p for which the point nearest to the ideal lies on Σ lossᵖ = 1."""
    if len(corners) == len(front):
        return 1.0
    distances = np.linalg.norm(front, axis=1)
    distances[corners] = np.inf
    central = front[distances.argmin()]
    low, high = (float((central**each).sum()) - 1.0 for each in _EXPONENTS)
    if low <= 0.0:
        return 1.0
    if high >= 0.0:
        return _EXPONENTS[1]
    return float(brentq(lambda each: float((central**each).sum()) - 1.0, *_EXPONENTS))


def _scores(front: np.ndarray, corners: np.ndarray, exponent: float) -> np.ndarray:
    """Return diversity over distance from the ideal, shape (n,); corners are infinite.

    One point after the other joins those chosen: that with the largest sum of distances to
    the nearest two of them.
    """
    distances = _geodesics(front, exponent) / np.maximum(_norms(front, exponent), _TINY)[:, None]
    scores = np.zeros(len(front))
    scores[corners] = np.inf
    chosen = list(corners)
    rest = [place for place in range(len(front)) if place not in chosen]
    while rest:
        nearest = np.sort(distances[np.ix_(rest, chosen)], axis=1)[:, :2].sum(axis=1)
        best = int(nearest.argmax())
        scores[rest[best]] = nearest[best]
        chosen.append(rest.pop(best))
    return scores


def _geodesics(front: np.ndarray, exponent: float) -> np.ndarray:
    """Return distances along the surface Σ lossᵖ = 1, shape (n, n), by way of the middle."""

    def on_surface(points: np.ndarray) -> np.ndarray:
        projected: np.ndarray = points / np.maximum(_norms(points, exponent), _TINY)[..., None]
        return projected

    ends = on_surface(front)
    middles = on_surface((ends[:, None] + ends[None, :]) / 2.0)
    halves = np.linalg.norm(ends[:, None] - middles, axis=-1)
    distances: np.ndarray = halves + halves.T
    return distances
