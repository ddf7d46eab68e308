"""The ordered parameters of a space as levels, from the fewest units kept to the most."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.graph.layer import Layer
from autoprune.policy import LayerDecision, Policy
from autoprune.space import Choice, Float, Parameter

from ._genome import Genome

# More levels per parameter than so many are thinned out: finer steps change the cost of a
# network by less than quality can be told apart.
_MOST = 48
# Scores of units that leave count with this power where bits are decided about as well, whose
# damage is convex: a sum would empty whole groups before it takes a bit.
_POWER = 1.5


class Levels:
    """What every ordered parameter keeps, level by level, while all others are at their highest.

    Rows are the ordered parameters, of the kinds numbered in `kinds`; `top` is the index of each
    one's highest level. Arrays over levels, shape (rows, levels), repeat the highest level of a
    row that has fewer. `lost` is the share of the units of its groups that a level gives up,
    `gone` the share of their scores (to a power, in spaces of several kinds), and `edge` the
    score of the least unit that it keeps, in multiples of the mean of its group. Where a level
    gives up bits or ranks of layers instead, `lost` is the power of the noise that this adds as
    a share of the signal's, `gone` its square, and `edge` what it saves of that of the level
    below per share of the layers' bytes.
    """

    def __init__(self, problem: SearchProblem, genome: Genome) -> None:
        self._whole = genome.diagonal(1.0)
        self.columns = np.flatnonzero(genome.ordered)
        self.kinds = genome.kinds[self.columns]
        rows = [_Row(problem, genome, int(column)) for column in self.columns]
        self.top = np.array([len(row.values) - 1 for row in rows])
        # Two at least, so that a single level has a price too, which is never paid.
        width = max(1, int(self.top.max())) + 1
        self.values = _stacked([row.values for row in rows], width)
        self.lost = _stacked([row.lost for row in rows], width)
        self.gone = _stacked([row.gone for row in rows], width)
        self.edge = _stacked([row.edge for row in rows], width)

    def vectors(self, picks: np.ndarray, base: np.ndarray | None = None) -> np.ndarray:
        """Return genome vectors, shape (n, parameters), of level indices (n, rows).

        Options are those of the vector `base`, the first ones without it.
        """
        vectors = np.tile(self._whole if base is None else base, (len(picks), 1))
        vectors[:, self.columns] = self.values[np.arange(len(self.columns)), picks]
        return vectors

    def picks(self, vector: np.ndarray) -> np.ndarray:
        """Return the indices, shape (rows,), of the levels nearest to a genome vector."""
        found: np.ndarray = np.abs(self.values - vector[self.columns][:, None]).argmin(axis=1)
        return found

    def lowered(self, vector: np.ndarray) -> tuple[int, int] | None:
        """Return row and level of the only parameter that is not at its highest.

        None where several are or none is, or an option is not the first.
        """
        picks = self.picks(vector)
        rows = np.flatnonzero(picks != self.top)
        if len(rows) != 1 or not np.array_equal(self.vectors(picks[None])[0], vector):
            return None
        return int(rows[0]), int(picks[rows[0]])

    def within(
        self, prices: np.ndarray, budget: float, share: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Return the level indices, shape (rows,), that one threshold affords within a budget.

        `prices`, shape (rows, levels - 1), are those of all levels but the lowest and do not
        rise along a row; a row is at the last level whose price exceeds the threshold.
        `share` gives the cost of level indices, shape (n, rows). The threshold is the lowest
        that stays within the budget; all rows are at their lowest level where none does.
        """
        exists = np.arange(1, self.values.shape[1]) <= self.top[:, None]
        prices = np.where(exists, prices, -np.inf)
        thresholds = np.concatenate([[-np.inf], np.unique(prices[exists])])
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high) // 2
            picks = (prices > thresholds[middle]).sum(axis=1)
            if share(picks[None])[0] <= budget:
                high = middle
            else:
                low = middle + 1
        afforded: np.ndarray = (prices > thresholds[low]).sum(axis=1)
        return afforded


class _Row:
    """The levels of one parameter, ascending in the units, bits or ranks that they keep."""

    def __init__(self, problem: SearchProblem, genome: Genome, column: int) -> None:
        values = _values(genome.parameters[column])
        policies = []
        for value in values:
            vector = genome.diagonal(1.0)
            vector[column] = value
            policies.append(problem.space.decode(genome.values(vector)))
        kept = [problem.groups.kept_units(policy) for policy in policies]
        names = [name for name in kept[0] if len({each[name] for each in kept}) > 1]
        counts = np.array([[each[name] for name in names] for each in kept], dtype=np.int64)
        order = counts.sum(axis=1).argsort(kind="stable")
        self.values, counts = values[order], counts[order]
        scores = [_normalised(problem, name) for name in names]
        places = [(each, count - 1) for each, count in zip(scores, counts.T, strict=True)]
        none = np.zeros(len(values))
        units = max(1, sum(map(len, scores)))
        retained = sum((each.cumsum()[place] for each, place in places), none)
        self.lost = 1.0 - counts.sum(axis=1) / units if names else none
        power = 1.0 if genome.kind_count == 1 else _POWER
        self.gone = np.maximum(0.0, 1.0 - retained / units) ** power if names else none
        self.edge = sum((each[place] for each, place in places), none) / max(1, len(names))
        if not names:
            self._of_layers(problem, [policies[index] for index in order])

    def _of_layers(self, problem: SearchProblem, policies: list[Policy]) -> None:
        """Take what rounding loses of a signal for scores."""
        layers = [
            each
            for each in problem.groups.layers
            if len({policy.layer(each.name) for policy in policies}) > 1
        ]
        if not layers:
            return
        whole = problem.groups.units(Policy())
        noise = [
            [_noise(each, policy.layer(each.name), whole) for each in layers] for policy in policies
        ]
        self.lost = np.mean(noise, axis=1)
        # Networks have margins: errors go with the square of the noise's power. Kernels of 2, 3
        # and 4 bits, rounded to the nearest, cost a ResNet-20 82, 18.5 and 1.1 points.
        self.gone = self.lost**2
        # What a level loses less than the one below it, per share of the layers' bytes that it
        # costs more.
        own = problem.costs.by_module(Policy())
        total = sum(own[each.name].size_bytes for each in layers)
        kept = [problem.costs.costs(policy).size_bytes / total for policy in policies]
        gained = -np.diff(self.gone) / np.maximum(np.diff(kept), 1e-12)
        self.edge = np.concatenate([[0.0], gained])


def _noise(layer: Layer, decision: LayerDecision, whole: Mapping[str, int]) -> float:
    """Return the power of what a decision about a layer loses, as a share of its signal's.

    A step of b bits is 2^(1-b) of the largest weight, and half of that of what is read, which
    has one sign; a product of lower rank loses the weakest of its directions.
    """
    noise = 4.0 ** (1 - decision.weight_bits) + 4.0**-decision.activation_bits
    if decision.rank is not None and layer.inputs is not None:
        full = min(layer.width(whole), layer.inputs.length(whole))
        noise += (1.0 - decision.rank / full) ** 2
    return min(1.0, noise)


def _stacked(lines: list[np.ndarray], width: int) -> np.ndarray:
    """Return lines of different lengths as one array, each filled up with its last entry."""
    return np.stack([np.pad(line, (0, width - len(line)), mode="edge") for line in lines])


def _values(parameter: Parameter) -> np.ndarray:
    """Return the values of an ordered parameter, or evenly spaced ones of too many."""
    assert not isinstance(parameter, Choice)
    values = np.linspace(parameter.low, parameter.high, _MOST)
    if isinstance(parameter, Float):
        return values
    if parameter.high - parameter.low < _MOST:
        values = np.arange(parameter.low, parameter.high + 1.0)
    return np.rint(values)


def _normalised(problem: SearchProblem, name: str) -> np.ndarray:
    """Return the scores of a group over their mean, descending; ones where none are known."""
    units = problem.groups[name].units
    scores = np.asarray(problem.scores.get(name, np.ones(units)), dtype=np.float64)
    scores = scores - min(0.0, float(scores.min()))
    mean = float(scores.mean())
    return np.sort(scores / mean)[::-1] if mean > 0.0 else np.ones(units)
