"""SMS-EMOA: whoever adds least to the hypervolume goes."""

from __future__ import annotations

from pymoo.algorithms.moo.sms import LeastHypervolumeContributionSurvival
from pymoo.core.survival import Survival

from ._pymoo import SteadyState


class SMSEMOA(SteadyState):
    """Evolves a population whose hypervolume grows: whoever adds least to it goes.

    Beume, Naujoks and Emmerich, "SMS-EMOA: multiobjective selection based on dominated
    hypervolume", EJOR 2007, which is a steady state from the start.
    """

    def _surviving(self, goals: int, population: int) -> Survival:
        return LeastHypervolumeContributionSurvival()
