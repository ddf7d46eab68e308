"""What can be chosen: parameters, and the contract of a search space.

A worked sequence:

    values = space.sample(rng)            # {"layer1.0.conv1": 7, ...}
    policy = space.decode(values)         # a Policy over the space's groups
    space.contains(policy)                # True
    space.encode(policy) == values        # True: decode and encode are inverse
    space.nearest(other)                  # values for any policy, also of another space
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from autoprune.errors import PolicyError
from autoprune.policy import Policy

if TYPE_CHECKING:
    import numpy as np

Value: TypeAlias = int | float | str
Values: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Integer:
    """An ordered whole number in [low, high], both included.

    `kind` says what it decides about where a space knows several: parameters of one kind are
    alike, those of different kinds are not.
    """

    name: str
    low: int
    high: int
    kind: str = ""

    def sample(self, rng: np.random.Generator) -> int:
        """Draw uniformly."""
        return int(rng.integers(self.low, self.high + 1))

    def allows(self, value: object) -> bool:
        """Say whether `value` is one of this parameter's values."""
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Float:
    """A real number in [low, high]."""

    name: str
    low: float
    high: float

    def sample(self, rng: np.random.Generator) -> float:
        """Draw uniformly."""
        return float(rng.uniform(self.low, self.high))

    def allows(self, value: object) -> bool:
        """Say whether `value` is one of this parameter's values."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several unordered options."""

    name: str
    options: tuple[str, ...]

    def sample(self, rng: np.random.Generator) -> str:
        """Draw uniformly."""
        return self.options[int(rng.integers(len(self.options)))]

    def allows(self, value: object) -> bool:
        """Say whether `value` is one of this parameter's values."""
        return value in self.options


Parameter: TypeAlias = Integer | Float | Choice


class SearchSpace(ABC):
    """A set of policies, described by parameters.

    Implementations are immutable after construction, own no random state, and keep
    `encode(decode(values)) == values` for every allowed assignment.
    """

    parameters: tuple[Parameter, ...]

    @abstractmethod
    def decode(self, values: Values) -> Policy:
        """Return the policy that `values` (one per parameter) stand for."""

    @abstractmethod
    def encode(self, policy: Policy) -> Values:
        """Return the values that decode to `policy`; `PolicyError` if it lies outside."""

    @abstractmethod
    def nearest(self, policy: Policy) -> Values:
        """Return the values whose policy keeps most nearly what `policy` keeps.

        Groups and blocks that only one of the two knows are passed over; what the values
        say beyond what is kept stands at its first option.
        """

    def sample(self, rng: np.random.Generator) -> Values:
        """Draw every parameter independently and uniformly from `rng`."""
        return {parameter.name: parameter.sample(rng) for parameter in self.parameters}

    def contains(self, policy: Policy) -> bool:
        """Say whether `policy` can be written in this space's parameters."""
        try:
            values = self.encode(policy)
        except PolicyError:
            return False
        return all(parameter.allows(values[parameter.name]) for parameter in self.parameters)
