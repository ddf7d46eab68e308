"""Random search: the baseline that every other searcher has to beat."""

from __future__ import annotations

from autoprune.policy import Policy

from ._proposer import Proposer


class RandomSearch(Proposer):
    """Draws every parameter independently and uniformly, and never the same network twice.

    Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 2012.
    """

    def _propose(self) -> Policy | None:
        return self._known.draw(self._rng)
