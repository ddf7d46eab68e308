"""The suite that every search space passes, for ours and for yours.

class TestMine(SpaceContract):
    def groups(self):
        return ...

def make(self):
    return Mine(self.groups(), ...)

def outside(self):
    return [Policy.from_keep_ratios({"conv1": 0.01})]
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from autoprune.errors import PolicyError
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.space import Choice, Parameter, SearchSpace, Value, Values

from .problem import small_problem


class SpaceContract:
    """Inherit, and override `make` and `outside`, and `groups` if they are not the default."""

    def groups(self) -> GroupTable:
        """Return the groups that the policies are about."""
        return small_problem().groups

    def make(self) -> SearchSpace:
        """Return the space; every call returns an equal one."""
        raise NotImplementedError

    def outside(self) -> Sequence[Policy]:
        """Return policies that the space does not hold, one per reason."""
        raise NotImplementedError

    def test_parameters_are_named_once_and_hold_their_bounds(self) -> None:
        parameters = self.make().parameters
        assert isinstance(parameters, tuple)
        assert parameters
        assert len({each.name for each in parameters}) == len(parameters)
        for each in parameters:
            assert all(each.allows(value) for value in _ends(each))

    def test_samples_are_allowed_and_vary(self) -> None:
        space = self.make()
        samples = _samples(space)
        for values in samples:
            assert set(values) == {each.name for each in space.parameters}
            assert all(each.allows(values[each.name]) for each in space.parameters)
        for each in space.parameters:
            seen = {values[each.name] for values in samples}
            assert len(seen) > 1 or len(set(_ends(each))) == 1

    def test_samples_follow_the_given_generator_alone(self) -> None:
        drawn = []
        for seed in (0, 1):
            random.seed(seed)
            np.random.seed(seed)
            before = (random.getstate(), np.random.get_state(legacy=False))
            drawn.append(_samples(self.make()))
            assert repr(before) == repr((random.getstate(), np.random.get_state(legacy=False)))
        assert drawn[0] == drawn[1]

    def test_encode_is_the_inverse_of_decode(self) -> None:
        space = self.make()
        for values in (*_samples(space), *_corners(space)):
            policy = space.decode(values)
            assert space.contains(policy)
            assert dict(space.encode(policy)) == dict(values)

    def test_the_nearest_policy_to_one_inside_keeps_the_same(self) -> None:
        space, groups = self.make(), self.groups()
        for values in (*_samples(space), *_corners(space)):
            policy = space.decode(values)
            again = space.decode(space.nearest(policy))
            assert groups.kept_units(again) == groups.kept_units(policy)
            assert again.dropped == policy.dropped

    def test_any_policy_has_a_nearest_one(self) -> None:
        space, groups = self.make(), self.groups()
        half = {group.name: 0.5 for group in groups.prunable}
        strangers = [Policy(), Policy.from_keep_ratios({**half, "another network's": 0.5}, "?")]
        for policy in (*strangers, *self.outside()):
            assert space.contains(space.decode(space.nearest(policy)))

    def test_different_values_are_different_policies(self) -> None:
        space = self.make()
        samples = _samples(space)
        values = {tuple(sorted(each.items())) for each in samples}
        assert len({space.decode(each).sha256 for each in samples}) == len(values)

    def test_policies_fit_the_groups_in_any_spelling(self) -> None:
        space, groups = self.make(), self.groups()
        for values in (*_samples(space), *_corners(space)):
            policy = space.decode(values)
            kept, gone = groups.kept_units(policy), groups.vanishing(policy)
            canonical = groups.canonical(policy)
            for name, count in groups.kept_units(canonical).items():
                assert count == (groups[name].units if name in gone else kept[name])
            # The engine tells searchers of canonical policies, out of JSON.
            assert space.contains(Policy.from_json(canonical.to_json()))

    def test_policies_outside_are_refused(self) -> None:
        space = self.make()
        for policy in self.outside():
            assert not space.contains(policy), policy.to_json()
            try:
                values = space.encode(policy)
            except PolicyError as error:
                assert str(error)
            else:
                assert not all(each.allows(values[each.name]) for each in space.parameters)

    def test_use_does_not_change_a_space(self) -> None:
        used = self.make()
        before = used.parameters
        for values in _samples(used):
            used.encode(used.decode(values))
        for policy in self.outside():
            used.contains(policy)
        assert used.parameters == before == self.make().parameters
        policies = [
            [space.decode(values) for values in _samples(space)] for space in (used, self.make())
        ]
        assert policies[0] == policies[1]


def _samples(space: SearchSpace, count: int = 200) -> list[Values]:
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(count)]


def _ends(parameter: Parameter) -> tuple[Value, ...]:
    if isinstance(parameter, Choice):
        return parameter.options
    return (parameter.low, parameter.high)


def _corners(space: SearchSpace) -> Iterator[dict[str, Value]]:
    """Yield all first ends, all last ends, and each parameter's ends with the others first."""
    first = {each.name: _ends(each)[0] for each in space.parameters}
    yield first
    yield {each.name: _ends(each)[-1] for each in space.parameters}
    for each in space.parameters:
        for value in _ends(each):
            yield {**first, each.name: value}
