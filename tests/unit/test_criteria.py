"""Criteria: the contract, and scores computed by hand."""

from __future__ import annotations

from autoprune.contracts.criterion import Criterion, WeightCriterion
from autoprune.criteria.l1 import L1
from autoprune.criteria.l2 import L2
from autoprune.criteria.random_criterion import Random
from autoprune.criteria.taylor import Taylor
from autoprune.testing import CriterionContract, WeightCriterionContract


class TestL1(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return L1()


class TestL2(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return L2()


class TestRandom(WeightCriterionContract):
    def make(self) -> WeightCriterion:
        return Random(seed=4)


class TestTaylor(CriterionContract):
    def make(self) -> Criterion:
        return Taylor()
