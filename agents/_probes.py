"""Probes of one parameter at a time, all others at their highest, and curves through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from autoprune.policy import Policy

from ._front import FrontFollower
from ._levels import Levels

# Share of the calls that give a probe, once other things are known as well.
_SHARE, _SHARE_OF_MIXED = 0.5, 0.2


class Probes:
    """What it does to lower one parameter alone, per row and level; NaN where it is unknown.

    `count` levels of every row are planned, evenly spaced from the lowest up, one of every
    row before the second of any.
    """

    def __init__(self, levels: Levels, count: int) -> None:
        self._levels = levels
        self._rows = np.flatnonzero(levels.top)
        self._plan = [
            (row, levels.top[row] * index // count) for index in range(count) for row in self._rows
        ]
        self.planned = 0
        self.found = np.full(levels.values.shape, np.nan)

    def next(self, rng: np.random.Generator) -> np.ndarray | None:
        """Return the vector of the next probe without a result; None where it is not time.

        After the first round only every other call gives a probe, so that what is known
        already is put to use meanwhile; where there are several kinds every fifth, from the
        start: what is common to a kind tells more than a probe of one of many rows.
        """
        is_mixed = bool(np.ptp(self._levels.kinds))
        share = _SHARE_OF_MIXED if is_mixed else _SHARE
        if (is_mixed or self.planned >= len(self._rows)) and rng.random() < 1.0 - share:
            return None
        while self.planned < len(self._plan):
            row, level = self._plan[self.planned]
            self.planned += 1
            if np.isnan(self.found[row, level]):
                picks = self._levels.top.copy()
                picks[row] = level
                vector: np.ndarray = self._levels.vectors(picks[None])[0]
                return vector
        return None

    def learn(self, vector: np.ndarray, effect: float) -> bool:
        """Take in the effect of a vector; say whether it lowers one parameter alone."""
        place = self._levels.lowered(vector)
        if place is not None:
            self.found[place] = effect
        return place is not None

    def curves(self, power: float) -> np.ndarray:
        """Return the effect of every level, shape (rows, levels), falling to 0.0 at the highest.

        Monotone regression through the effects of a row; between them the `power`-th root is
        interpolated over the share of units lost. Rows that have none follow the mean of the
        others of their kind, or of all.
        """
        is_known = ~np.isnan(self.found).all(axis=1)
        steepness = np.full(len(self.found), 1.0 / len(self.found))
        curves = np.zeros_like(self._levels.lost)
        for row in np.flatnonzero(is_known):
            curves[row] = self._curve(int(row), power)
        if is_known.any():
            steepness[:] = curves[is_known, 0].mean()
        for kind in np.unique(self._levels.kinds[is_known]):
            own = self._levels.kinds == kind
            steepness[own] = curves[own & is_known, 0].mean()
        rest = ~is_known
        curves[rest] = steepness[rest, None] * self._levels.lost[rest] ** power
        return curves

    def _curve(self, row: int, power: float) -> np.ndarray:
        levels = np.flatnonzero(~np.isnan(self.found[row]))[::-1]
        lost = self._levels.lost[row]
        heights = isotonic_regression(np.maximum(0.0, self.found[row, levels])).x
        places = np.concatenate([[0.0], lost[levels]])
        roots = np.concatenate([[0.0], heights ** (1.0 / power)])
        # Beyond the last effect the curve goes on as steeply as it came from the origin.
        slope = roots[-1] / places[-1] if places[-1] > 0.0 else 0.0
        beyond = np.maximum(0.0, lost - places[-1]) * slope
        curve: np.ndarray = (np.interp(lost, places, roots) + beyond) ** power
        return curve

    def state_dict(self) -> dict[str, Any]:
        """Return what was found and how far the plan is."""
        return {"found": self.found.copy(), "planned": self.planned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.found = np.array(state["found"], dtype=np.float64)
        self.planned = int(state["planned"])


class Prober(FrontFollower):
    """Asks its probes before and between the policies of its family, which sets `_probes`."""

    _probes: Probes

    def _propose(self) -> Policy | None:
        before = self._probes.planned
        vector = self._probes.next(self._rng)
        policy = None if vector is None else self._decode(vector)
        if policy is None or not self._known.add(policy):
            policy = super()._propose()
        if policy is None:
            self._probes.planned = before
        return policy

    def state_dict(self) -> dict[str, Any]:
        """Return the probes as well."""
        return super().state_dict() | {"probes": self._probes.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._probes.load_state_dict(state["probes"])
