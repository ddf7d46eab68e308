"""Sobol: a sequence that fills the space more evenly than chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy.stats.qmc import Sobol as Sequence

from autoprune.contracts.searcher import SearchProblem
from autoprune.policy import Policy

from ._proposer import Proposer

# So many points in a row that are known already, and the rest of the space is drawn from.
_REPEATS = 100


class Sobol(Proposer):
    """Walks a scrambled Sobol sequence over the space, and never asks for a network twice.

    Owen, "Scrambling Sobol' and Niederreiter-Xing points", Journal of Complexity 1998. Like
    random search a baseline, with gaps and clusters avoided.
    """

    def __init__(self, problem: SearchProblem, *, seed: int = 0) -> None:
        super().__init__(problem, seed=seed)
        self._sequence = Sequence(len(problem.space.parameters), rng=seed)

    def _propose(self) -> Policy | None:
        drawn = self._sequence.num_generated
        for _ in range(_REPEATS):
            policy = self._decode(self._genome.from_unit(self._sequence.random()[0]))
            if self._known.add(policy):
                return policy
        left = self._known.draw(self._rng)
        if left is None:
            self._wind(drawn)  # an empty answer leaves no trace
        return left

    def _wind(self, drawn: int) -> None:
        self._sequence.reset()
        if drawn:  # scipy counts one less than zero otherwise
            self._sequence.fast_forward(drawn)

    def state_dict(self) -> dict[str, Any]:
        """Return how far the sequence is, beside the generator and what is known."""
        return super().state_dict() | {"drawn": self._sequence.num_generated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._wind(state["drawn"])
