"""MetaPruning: nothing before its generator is trained, then an evolution of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.metapruning import MetaPruning
from agents.random_search import RandomSearch
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.contracts.training import TrainingProgress, TrainingRequest
from autoprune.errors import PluginError
from autoprune.policy import Policy, Recipe
from autoprune.testing import SearcherContract
from autoprune.testing.problem import small_problem
from autoprune.trial import TrialState
from tests.unit.test_agents_nsga2 import completed, hypervolume, search

NET = "a net"


def progress(done: int, checkpoint: str = NET, total: int = 1000) -> TrainingProgress:
    return TrainingProgress(done, total, checkpoint, figures={"loss": 1.0}, seconds=2.0)


def ready(problem: SearchProblem, seed: int = 0, population: int = 12) -> MetaPruning:
    searcher = MetaPruning(problem, seed=seed, population=population)
    searcher.trained(progress(1000))
    return searcher


class TestMetaPruning(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return ready(problem, seed)


def test_nothing_is_proposed_before_the_training_is_complete() -> None:
    problem = small_problem()
    searcher = MetaPruning(problem, steps=70, rank=3, generator="full")
    before = searcher.state_dict()
    request = searcher.training
    assert isinstance(request, TrainingRequest)
    assert request.steps == 70
    assert request.options == {
        "slice_steps": 50,
        "batch_size": 64,
        "learning_rate": 0.05,
        "generator": "full",
        "rank": 3,
        "hidden": 32,
    }
    for done in (None, progress(50, "half", 70)):
        assert list(searcher.ask(3)) == []
        searcher.trained(done)
        assert searcher.training == request
    assert repr(searcher.state_dict()) == repr(before)
    searcher.trained(progress(70, NET, 70))
    assert searcher.training is None
    assert {policy.recipe.pruning_net for policy in searcher.ask(20)} == {NET}


def test_only_results_of_its_own_generator_are_learned_from() -> None:
    problem = small_problem()
    searcher = ready(problem)
    own = searcher.ask(2)[0]
    for net in (None, "another net"):
        searcher.tell(completed(problem, replace(own, recipe=Recipe(pruning_net=net))))
    assert len(searcher.state_dict()["population"]["F"]) == 0
    searcher.tell(completed(problem, own))
    assert len(searcher.state_dict()["population"]["F"]) == 1
    foreign = Policy.from_keep_ratios({problem.groups.prunable[0].name: 0.5})
    searcher.tell(completed(problem, replace(foreign, recipe=Recipe(pruning_net=NET))))
    assert len(searcher.state_dict()["population"]["F"]) == 2


def test_before_training_a_tell_without_a_generator_is_not_its_own() -> None:
    problem = small_problem()
    searcher = MetaPruning(problem)
    searcher.tell(completed(problem, Policy()))
    assert len(searcher.state_dict()["population"]["F"]) == 0


def test_a_state_brings_the_generator_along() -> None:
    problem = small_problem()
    original, rebuilt = ready(problem), MetaPruning(problem, population=12)
    original.ask(3)
    rebuilt.load_state_dict(original.state_dict())
    assert rebuilt.training is None
    assert rebuilt.ask(20) == original.ask(20)
    rebuilt.load_state_dict(MetaPruning(problem, population=12).state_dict())
    assert rebuilt.training is not None


def test_evolution_beats_random_search() -> None:
    problem = small_problem(units=(32,) * 10)
    for seed in range(2):
        own = search(ready(problem, seed, population=40), problem, 150)
        drawn = search(RandomSearch(problem, seed=seed), problem, 150)
        assert len({policy.sha256 for policy in own}) == 150
        assert hypervolume(problem, own) > hypervolume(problem, drawn) + 0.02


def test_failed_trials_are_not_bred_from() -> None:
    problem = small_problem()
    searcher = ready(problem)
    trial = completed(problem, searcher.ask(1)[0])
    searcher.tell(replace(trial, state=TrialState.FAILED, evaluation=None))
    assert len(searcher.state_dict()["population"]["F"]) == 0


def test_a_mutation_changes_a_tenth_of_the_parameters() -> None:
    problem = small_problem(units=(64,) * 40, criteria=("l1",))
    searcher = ready(problem, population=4)
    names = [group.name for group in problem.groups.prunable]
    parent = Policy.from_keep_ratios(dict.fromkeys(names, 0.5))
    other = Policy.from_keep_ratios({**dict.fromkeys(names, 0.5), names[0]: 0.75})
    searcher.ask(4)
    for policy in (parent, other):
        searcher.tell(completed(problem, replace(policy, recipe=Recipe(pruning_net=NET))))
    changed = [sum(policy.keep_ratio(name) != 0.5 for name in names) for policy in searcher.ask(60)]
    assert 2.5 < np.mean(changed) < 6.5


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"slice_steps": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"generator": "half"},
        {"rank": 0},
        {"hidden": 0},
        {"population": 3},
    ],
)
def test_unusable_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(PluginError, match=f"{next(iter(options))} must be"):
        MetaPruning(small_problem(), **options)  # type: ignore[arg-type]


def test_a_generator_of_full_size_is_for_small_networks() -> None:
    problem = small_problem(units=(256, 512))
    MetaPruning(problem, generator="full")
    with pytest.raises(PluginError, match=r"up to \d+,\d+,\d+ weights.*at most 50,000,000"):
        MetaPruning(problem, generator="full", hidden=64)
    MetaPruning(problem, hidden=64)
