"""A small search problem made by hand, with objectives that cost microseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from autoprune import plugins
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PolicyError
from autoprune.graph.cost import CostTable
from autoprune.graph.cost_row import CostRow
from autoprune.graph.extent import Extent
from autoprune.graph.group import GroupTable, PrunableGroup, Slice
from autoprune.graph.layer import Layer
from autoprune.job.spec import PluginSpec
from autoprune.policy import Policy
from autoprune.space import Choice, Integer, SearchSpace, Values
from autoprune.trial import Evaluation, Measurement

_CRITERION = "criterion"


class CountSpace(SearchSpace):
    """Kept units of every prunable group from 1 up, and one of several criteria."""

    def __init__(self, groups: GroupTable, criteria: tuple[str, ...] = ("l1", "l2")) -> None:
        self._groups = groups
        counts = [Integer(group.name, 1, group.units) for group in groups.prunable]
        self._choice = Choice(_CRITERION, criteria)
        self.parameters = (*counts, self._choice)

    def decode(self, values: Values) -> Policy:
        """Return the canonical policy with these counts and this criterion."""
        ratios = {
            group.name: int(values[group.name]) / group.units for group in self._groups.prunable
        }
        return self._groups.canonical(Policy.from_keep_ratios(ratios, str(values[_CRITERION])))

    def encode(self, policy: Policy) -> Values:
        """Return counts and criterion; `PolicyError` for other groups or criteria."""
        if not self._choice.allows(policy.recipe.criterion):
            raise PolicyError(f"criterion {policy.recipe.criterion!r} is outside the space")
        return {**self._groups.kept_units(policy), _CRITERION: policy.recipe.criterion}

    def nearest(self, policy: Policy) -> Values:
        """Return the kept counts of the groups that both know, and the first criterion."""
        counts = {
            group.name: max(1, round(policy.keep_ratio(group.name) * group.units))
            for group in self._groups.prunable
        }
        return {**counts, _CRITERION: self._choice.options[0]}


def small_problem(
    units: Sequence[int] = (16, 24, 32, 12), criteria: tuple[str, ...] = ("l1", "l2")
) -> SearchProblem:
    """Return a chain of convolutions whose hidden layers have `units` channels each.

    Its goals are accuracy (to be maximised, so that a wrong sign shows) and macs. The
    scores of the units are those of a seeded draw, as uneven as those of real layers.
    """
    widths = [3, *units, 10]
    count = len(widths) - 1
    groups = GroupTable(
        [
            *(_group(f"conv{index}", count, index) for index, count in enumerate(units, start=1)),
            _group(f"conv{count}", 10, count).frozen("its units are the outputs"),
        ],
        layers=(
            Layer(f"conv{index}", ("weight",), (_outputs(index),)) for index in range(1, count + 1)
        ),
    )
    costs = CostTable(_rows(widths), groups)
    dense = float(costs.costs(Policy()).macs)
    goals = (Goal("accuracy", "1", "max", reference=0.5), Goal("macs", "1", "min", dense))
    rng = np.random.default_rng(0)
    scores = {each.name: rng.lognormal(size=each.units) for each in groups.prunable}
    problem = SearchProblem(CountSpace(groups, criteria), goals, groups, costs, scores=scores)
    return replace(problem, dense=measure(problem, Policy()))


def _group(name: str, units: int, index: int) -> PrunableGroup:
    entries = np.arange(units)[:, None]
    made = Slice(f"{name}.weight", 0, units, entries, "out")
    read = Slice(f"conv{index + 1}.weight", 1, units, entries, "in")
    return PrunableGroup(name, units, (made, read))


def _rows(widths: Sequence[int]) -> Iterator[CostRow]:
    """Kernels of 3 x 3 at 64 positions, and biases."""
    inputs = Extent(widths[0])
    for index in range(1, len(widths)):
        outputs = _outputs(index)
        yield CostRow(f"conv{index}", 9, (outputs, inputs), macs=64, params=1, item_bytes=4)
        yield CostRow(f"conv{index}", 1, (outputs,), params=1, item_bytes=4)
        inputs = outputs


def _outputs(index: int) -> Extent:
    return Extent(0, ((1, (f"conv{index}",)),))


def mixed_problem(criteria: tuple[str, ...] = ("l1", "l2")) -> SearchProblem:
    """Return `small_problem` with bits as well, whose goals are accuracy and bytes."""
    plain = small_problem()
    spec = PluginSpec(name="mixed", options={"bits": [2, 4, 8, 32], "criterion": list(criteria)})
    space: SearchSpace = plugins.create("space", spec, plain.groups)
    size_bytes = float(plain.costs.costs(Policy()).size_bytes)
    goals = (plain.goals[0], Goal("size_bytes", "bytes", "min", size_bytes))
    problem = replace(plain, space=space, goals=goals)
    return replace(problem, dense=measure(problem, Policy()))


def measure(problem: SearchProblem, policy: Policy) -> Evaluation:
    """Return the accuracy of `policy`, and its macs and bytes.

    Losing units costs a group (1 - keep_ratio)² of a weight that grows 64-fold from the
    first group to the last, so uniform pruning is far from the best; `l2` costs 0.05 more.
    Rounding kernels to b bits costs a layer 4^(1-b) of a weight that grows likewise.
    """
    ratios = np.array([policy.keep_ratio(group.name) for group in problem.groups.prunable])
    weights = np.geomspace(1.0, 64.0, len(ratios))
    loss = 0.9 * float(weights @ (1.0 - ratios) ** 2 / weights.sum())
    loss += 0.05 * (policy.recipe.criterion != "l1")
    for layer, weight in zip(problem.groups.layers, [*weights, weights[-1]], strict=True):
        if layer.name in policy.layers:
            loss += 0.9 * weight / weights.sum() * 4.0 ** (1 - policy.layer(layer.name).weight_bits)
    costs = problem.costs.costs(policy)
    values = {"accuracy": 1.0 - loss, "macs": costs.macs, "size_bytes": costs.size_bytes}
    return Evaluation({name: Measurement(float(value)) for name, value in values.items()})
