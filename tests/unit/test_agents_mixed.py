"""Every searcher works on the mixed space, where bits, ranks and recipe are chosen as well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents._costs import CostModel
from agents._genome import Genome
from agents._levels import Levels
from autoprune import plugins
from autoprune.contracts.searcher import Searcher
from autoprune.contracts.training import TrainingProgress
from autoprune.front import Front
from autoprune.job.spec import PluginSpec
from autoprune.policy import LayerDecision, Policy
from autoprune.testing.problem import measure, mixed_problem, small_problem
from autoprune.trial import Trial, TrialState

PROBLEM = mixed_problem()
SEARCHERS = sorted(plugins.names("searcher"))


def searched(name: str, trials: int) -> Front:
    # CMA-ES knows numbers alone.
    problem = mixed_problem(criteria=("l1",)) if name == "cmaes" else PROBLEM
    searcher: Searcher = plugins.create("searcher", PluginSpec(name=name), problem, seed=0)
    if searcher.training is not None:
        searcher.trained(TrainingProgress(1, 1, "net"))
    front = Front(PROBLEM.goals)
    for number in range(1, trials + 1):
        asked = searcher.ask(1)
        if not asked:
            break
        policy = PROBLEM.groups.canonical(asked[0])
        assert problem.space.contains(policy)
        evaluation = measure(problem, policy)
        trial = Trial(number, policy, name, 0, TrialState.COMPLETED, evaluation=evaluation)
        searcher.tell(trial)
        front.add(trial)
    return front


# GP takes a third of a second for every proposal.
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow) if x == "gp" else x for x in SEARCHERS],
)
def test_searchers_find_networks_of_few_units_and_bits(name: str) -> None:
    front = searched(name, 60)
    assert len(front.members) >= 3
    bits = [{x.weight_bits for x in each.policy.layers.values()} for each in front.members]
    assert any(min(each, default=32) < 32 for each in bits)
    # All but one give some layers more bits than others.
    assert name == "uniform" or any(len(each) > 1 for each in bits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["amc", "nsga2", "tpe", "portfolio"])
def test_learning_beats_chance(name: str) -> None:
    volume, chance = searched(name, 120).hypervolume(), searched("random", 120).hypervolume()
    assert volume is not None
    assert chance is not None
    assert volume > chance + 0.02


def test_costs_of_vectors_are_those_of_their_policies() -> None:
    genome = Genome(PROBLEM.space)
    vectors = genome.from_unit(np.random.default_rng(0).random((40, len(genome.low))))
    for name in ("macs", "size_bytes", "bitops"):
        model = CostModel(PROBLEM, name)
        for vector, share in zip(vectors, model.share(vectors), strict=True):
            policy = PROBLEM.space.decode(genome.values(vector))
            costs = PROBLEM.costs.costs(policy), PROBLEM.costs.costs(Policy())
            assert share == pytest.approx(getattr(costs[0], name) / getattr(costs[1], name))


def test_even_points_have_one_level_for_every_kind() -> None:
    genome = Genome(PROBLEM.space)
    points, levels = genome.even(np.array([0.0, 1.0]))
    assert levels.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    is_bits = np.array([x.name.endswith(":bits") for x in PROBLEM.space.parameters])
    places = ((points - genome.low) / (genome.high - genome.low))[:, genome.ordered]
    assert np.array_equal(places, np.where(is_bits[genome.ordered], levels[:, [1]], levels[:, [0]]))


def test_mixed_spaces_are_probed_less() -> None:
    for problem, least, most in ((PROBLEM, 2, 16), (small_problem(units=(8,) * 40), 40, 40)):
        asked = plugins.create("searcher", PluginSpec(name="bisection"), problem, seed=0).ask(40)
        levels = Levels(problem, Genome(problem.space))
        genome = Genome(problem.space)
        vectors = [genome.vector(problem.space.encode(x)) for x in asked]
        assert least <= sum(levels.lowered(x) is not None for x in vectors) <= most


def test_units_cost_more_the_more_of_them_leave_where_there_are_bits_as_well() -> None:
    alone = replace(PROBLEM, space=small_problem().space)  # of units, in another order
    mixed, plain = (Levels(x, Genome(x.space)) for x in (PROBLEM, alone))
    for row in range(4):
        kept = dict(zip(plain.lost[row].round(9), plain.gone[row], strict=True))
        expected = [kept[lost] for lost in mixed.lost[row].round(9)]
        assert mixed.gone[row] == pytest.approx(np.power(expected, 1.5))


def test_levels_count_the_layers_that_they_change_alone() -> None:
    """Where 32 bits are none of the choices, all other layers have few bits as well."""
    problem = mixed_problem()
    spec = PluginSpec(name="mixed", options={"bits": [2, 8]})
    problem = replace(problem, space=plugins.create("space", spec, problem.groups))
    levels = Levels(problem, Genome(problem.space))
    names = [x.name for x in problem.space.parameters]
    expected = [1 / 4 + 4.0**-8, 4.0**-7 + 4.0**-8]
    assert levels.lost[names.index("conv2:bits"), :2] == pytest.approx(expected)


def test_levels_of_bits_lose_the_power_of_their_noise() -> None:
    genome = Genome(PROBLEM.space)
    levels = Levels(PROBLEM, genome)
    row = [x.name for x in PROBLEM.space.parameters if x.name != "recipe:criterion"].index(
        "conv2:bits"
    )
    # 2, 4, 8 and 32 bits; what is read has 8 until the kernels have 32.
    expected = [1 / 4 + 4.0**-8, 1 / 64 + 4.0**-8, 4.0**-7 + 4.0**-8, 4.0**-31 + 4.0**-32]
    assert levels.lost[row, :4] == pytest.approx(expected)
    assert levels.gone[row, :4] == pytest.approx(np.square(expected))
    # The more bits there are, the less a further one is worth.
    assert (np.diff(levels.edge[row, 1:4]) < 0).all()
    kept = Policy(layers={"conv2": LayerDecision(8, 8)}), Policy()
    sizes = [PROBLEM.costs.by_module(each)["conv2"].size_bytes for each in kept]
    assert levels.edge[row, 3] == pytest.approx(
        (expected[2] ** 2 - expected[3] ** 2) / ((sizes[1] - sizes[0]) / sizes[1])
    )
