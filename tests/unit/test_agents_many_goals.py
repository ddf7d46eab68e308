"""Every built-in searcher under five goals: three are costs, one is to be maximised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune import plugins
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.contracts.training import TrainingProgress
from autoprune.errors import PluginError
from autoprune.front import Front
from autoprune.job.spec import PluginSpec
from autoprune.policy import Policy
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Measurement, Trial, TrialState
from search_spaces.layerwise import Layerwise

ROUNDS = 60


def evaluated(problem: SearchProblem, policy: Policy) -> Evaluation:
    """Return error, costs, and an agreement that suffers most from losses in the first groups."""
    costs = problem.costs.costs(policy)
    ratios = np.array([policy.keep_ratio(group.name) for group in problem.groups.prunable])
    weights = np.geomspace(64.0, 1.0, len(ratios))
    values = {
        "error": 1.0 - 0.95 * measure(problem, policy).value("accuracy"),
        "macs": float(costs.macs),
        "params": float(costs.params),
        "size_bytes": float(costs.size_bytes),
        "agreement": 1.0 - float(weights @ (1.0 - ratios) ** 2 / weights.sum()),
    }
    return Evaluation({name: Measurement(value) for name, value in values.items()}, seconds=1.0)


@pytest.fixture(scope="module")
def problem() -> SearchProblem:
    small = small_problem()
    dense = evaluated(small, Policy())
    goals = (
        Goal("error", "share", "min", 0.9),
        *(Goal(name, "", "min", dense.value(name)) for name in ("macs", "params", "size_bytes")),
        Goal("agreement", "share", "max", 0.5),
    )
    return replace(small, space=Layerwise(small.groups), goals=goals, dense=dense)


def searched(searcher: Searcher, problem: SearchProblem) -> list[Trial]:
    """Ask for one and tell it, again and again."""
    trials: list[Trial] = []
    for number in range(1, ROUNDS + 1):
        for policy in searcher.ask(1):
            assert problem.space.contains(policy)
            canonical = problem.groups.canonical(policy)
            evaluation = evaluated(problem, canonical)
            state = TrialState.COMPLETED
            trials.append(Trial(number, canonical, "x", state=state, evaluation=evaluation))
            searcher.tell(trials[-1])
    return trials


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=pytest.mark.slow) if x == "gp" else x
        for x in plugins.names("searcher")
    ],
)
def test_a_searcher_finds_a_front_of_five_goals(name: str, problem: SearchProblem) -> None:
    # Each ask after its startup takes gp a second.
    options = {"startup": 50} if name == "gp" else {}
    spec = PluginSpec(name=name, options=options)
    searcher: Searcher = plugins.create("searcher", spec, problem, seed=0)
    if searcher.training is not None:
        steps = searcher.training.steps
        searcher.trained(TrainingProgress(steps, steps, "a net"))
    trials = searched(searcher, problem)
    # What `uniform` sweeps has 20 points; nobody else is at a loss.
    assert len({each.policy for each in trials}) == (20 if name == "uniform" else ROUNDS)
    dense = Trial(0, Policy(), "dense", state=TrialState.COMPLETED, evaluation=problem.dense)
    assert Front.of([dense], problem.goals).hypervolume() == 0.0
    volume = Front.of([dense, *trials], problem.goals).hypervolume()
    assert volume is not None
    # Found: 0.18 (bisection, which seeks one budget) to 0.53; random 0.42.
    assert volume > 0.1


def test_gp_refuses_more_goals_than_it_can_model_in_time(problem: SearchProblem) -> None:
    more = replace(problem, goals=(*problem.goals, Goal("sixth", "", "min", 1.0)))
    with pytest.raises(PluginError, match=r"at most 5 objectives, given: 6;.* use surrogate"):
        plugins.create("searcher", PluginSpec(name="gp"), more, seed=0)
