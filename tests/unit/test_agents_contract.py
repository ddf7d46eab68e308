"""Every searcher keeps the contract of searchers."""

from __future__ import annotations

from agents.nsga2 import NSGA2
from agents.random_search import RandomSearch
from agents.tpe import TPE
from agents.uniform import Uniform
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.testing import SearcherContract


class TestRandomSearch(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return RandomSearch(problem, seed=seed)


class TestUniform(SearcherContract):
    is_seeded = False

    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return Uniform(problem, seed=seed, points=100)


class TestNSGA2(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return NSGA2(problem, seed=seed, population=12)


class TestTPE(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return TPE(problem, seed=seed, startup=8)
