"""EagleEye: random networks that cost almost exactly the same, over the range of costs."""

from __future__ import annotations

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.space import Float

from ._budgets import Budgeted

# Points on the way from a draw to the corner that lies beyond the budget.
_WAY = np.linspace(0.0, 1.0, 65)[:, None]
_SWITCHES = 200
# Steps of a real-valued parameter.
_FINE = 1000.0
_PROBES = 20


class EagleEye(Budgeted):
    """Draws networks at random within a narrow band around one cost after another.

    Li et al., "EagleEye: fast sub-net evaluation for efficient neural network pruning",
    ECCV 2020. A uniform draw is moved towards the corner of the space that lies beyond the
    budget, then into the band by random switches of single levels, on exact costs.

    Args:
        target: Share of the dense network's cost; without it the whole range is covered.
        band: Half the width of the band, as a share of the dense network's cost.

    Raises:
        PluginError: A target or band outside (0, 1], or a band that no network was found in.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        target: float | None = None,
        band: float = 0.005,
    ) -> None:
        if not 0.0 < band <= 1.0:
            raise PluginError(
                f"band must be a share of the dense network's cost in (0, 1], given: {band!r}"
            )
        super().__init__(problem, seed=seed, target=target)
        self._check_reach()
        self._band = band
        is_real = np.array([isinstance(each, Float) for each in self._genome.parameters])
        steps = np.where(is_real, (self._genome.high - self._genome.low) / _FINE, 1.0)
        single = np.diag(steps)[self._genome.ordered]
        self._switches = np.vstack([single, -single])
        if target is not None:
            rng = np.random.default_rng(seed)
            if all(self._draw(target, rng)[1] > band for _ in range(_PROBES)):
                raise PluginError(
                    f"no network found within {band} of target {target} of the dense network's "
                    f"{self._costs.name}; widen the band"
                )

    def _at(self, budget: float, attempt: int) -> np.ndarray | None:
        vector, miss = self._draw(budget, self._rng)
        # Between coarse levels a band may be empty; the whole range asks for no exact cost.
        return vector if miss <= self._band or self._target is None else None

    def _draw(self, budget: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Return a random vector near a cost, and by how much its own misses it."""
        genome = self._genome
        vector = genome.from_unit(rng.random((1, len(genome.low))))[0]
        is_dear = self._costs.share(vector[None])[0] > budget
        corner = np.where(genome.ordered, genome.low if is_dear else genome.high, vector)
        way = genome.snap(vector + _WAY * (corner - vector))
        misses = np.abs(self._costs.share(way) - budget)
        vector, miss = way[misses.argmin()], float(misses.min())
        for _ in range(_SWITCHES):
            if miss <= self._band or not len(self._switches):
                break
            switched = genome.snap(vector + self._switches)
            misses = np.abs(self._costs.share(switched) - budget)
            nearer = np.flatnonzero(misses < miss)
            if not len(nearer):
                break
            chosen = nearer[int(rng.integers(len(nearer)))]
            vector, miss = switched[chosen], float(misses[chosen])
        return vector, miss
