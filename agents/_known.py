"""Which policies need no proposal any more, and a uniform draw from the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.policy import Policy
from autoprune.space import Choice, Float, Parameter, Value

# With nine tenths of a space known, all of so many draws are known once in 40,000 times;
# the remainder is then small beside what is already remembered, and can be listed.
_DRAWS = 100
_LISTED = 50_000


class Known:
    """Every policy asked for or told of, by the hash of its canonical form.

    Memory grows by one entry per policy. An entry also says whether a result was learned,
    so that a trial that is told again, or promoted to another rung, whose values do not
    compare with those of this one, counts once.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._learned: dict[str, bool] = {}
        self._rest: dict[str, Policy] | None = None

    def key(self, policy: Policy) -> str:
        """Return the hash of the canonical form; `PolicyError` for another network's policy."""
        return self._problem.groups.canonical(policy).sha256

    def add(self, policy: Policy) -> bool:
        """Remember `policy`; say whether it was new."""
        key = self.key(policy)
        is_new = key not in self._learned
        self._learned.setdefault(key, False)
        return is_new

    def learn(self, policy: Policy) -> bool:
        """Remember that a result of `policy` came; say whether it is the first one."""
        key = self.key(policy)
        is_first = not self._learned.get(key, False)
        self._learned[key] = True
        return is_first

    def draw(self, rng: np.random.Generator) -> Policy | None:
        """Return, and remember, a policy drawn uniformly from the rest of the space.

        None means that nothing is left; in a space too large to be listed, or with real
        numbers, that a hundred draws in a row were known.
        """
        space = self._problem.space
        for _ in range(_DRAWS):
            policy = space.decode(space.sample(rng))
            if self.add(policy):
                return policy
        if self._rest is None:
            self._rest = {self.key(policy): policy for policy in self._listing()}
        self._rest = {key: each for key, each in self._rest.items() if key not in self._learned}
        if not self._rest:
            return None
        chosen = list(self._rest)[int(rng.integers(len(self._rest)))]
        self._learned[chosen] = False
        return self._rest[chosen]

    def _listing(self) -> Iterator[Policy]:
        """Yield every policy of the space; nothing where it cannot be listed."""
        axes = {each.name: _axis(each) for each in self._problem.space.parameters}
        if any(axis is None for axis in axes.values()):
            return
        columns = [axis for axis in axes.values() if axis is not None]
        if math.prod(map(len, columns)) > _LISTED:
            return
        for row in itertools.product(*columns):
            yield self._problem.space.decode(dict(zip(axes, row, strict=True)))

    def state_dict(self) -> dict[str, bool]:
        """Return the remembered hashes, as a JSON object."""
        return dict(self._learned)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._learned = dict(state)
        self._rest = None


def _axis(parameter: Parameter) -> Sequence[Value] | None:
    """Return every value of `parameter`; None for a real number."""
    if isinstance(parameter, Float):
        return None
    if isinstance(parameter, Choice):
        return parameter.options
    return range(parameter.low, parameter.high + 1)
