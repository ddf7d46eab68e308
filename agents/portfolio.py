"""A portfolio: several searchers over one archive, the budget flowing to what pays."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from autoprune import plugins
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.contracts.training import TrainingProgress, TrainingRequest
from autoprune.errors import PluginError, PolicyError
from autoprune.job.spec import Plugin, PluginSpec
from autoprune.policy import Policy
from autoprune.trial import Trial, TrialState

from ._archive import Archive

_log = logging.getLogger(__name__)
DEFAULT_TEAM = tuple(PluginSpec(name=name) for name in ("surrogate", "bisection", "knapsack"))
# Proposals in a row of one searcher that others made before it, until another one is asked.
_REPETITIONS = 20
# Infeasible proposals in a row, each of which costs nothing, before a searcher is given up.
_PATIENCE = 200
# Odds go with this power of the credit.
_SHARPNESS = 4.0


@dataclass
class _Share:
    """A searcher in the portfolio, and its discounted account."""

    title: str
    searcher: Searcher
    gained: float = 0.0
    spent: float = 0.0
    fruitless: int = 0
    is_retired: bool = False

    def retire(self, why: str, *, with_traceback: bool = False) -> None:
        self.is_retired = True
        _log.warning("searcher %s %s and is retired", self.title, why, exc_info=with_traceback)


class Portfolio(Searcher):
    """Shares the trials among several searchers by the hypervolume that each gains per second.

    Every result is told to all, so that a searcher builds on what others found. A searcher
    is credited with what its trials add to the common front, relative to what trials of
    that time add. Gains and seconds are discounted with every trial, so that whoever finds
    most at present is asked most; with its account fading, a searcher's credit returns to
    the average of all (as sliding-window credit in adaptive operator selection: Fialho et
    al., "Analyzing bandit-based adaptive operator selection mechanisms", AMAI 2010). In
    serial mode a trial counts as one second, so that equal seeds give equal logs.

    Args:
        searchers: Names or `{name, options}` of at least one searcher; a team by default.
        exploration: Share of the trials that is spread evenly, whatever the credit.
        discount: What an account is multiplied with at every trial, in (0, 1].

    Raises:
        PluginError: No searcher, one that is a portfolio itself or cannot serve the
            problem, or an option out of bounds.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        searchers: tuple[Plugin, ...] = DEFAULT_TEAM,
        exploration: float = 0.1,
        discount: float = 0.97,
    ) -> None:
        super().__init__(problem, seed=seed)
        if not searchers or any(each.name == "portfolio" for each in searchers):
            names = [each.name for each in searchers]
            raise PluginError(f"searchers must name at least one, and no portfolio, given: {names}")
        if not 0.0 <= exploration <= 1.0:
            raise PluginError(f"exploration must be a share in [0, 1], given: {exploration!r}")
        if not 0.0 < discount <= 1.0:
            raise PluginError(f"discount must be in (0, 1], given: {discount!r}")
        self._exploration = exploration
        self._discount = discount
        self._rng = np.random.default_rng(seed)
        self._shares = {
            title: _Share(title, _create(each, problem, seed, title))
            for title, each in titled(searchers).items()
        }
        self._authors: dict[str, str] = {}
        self._told: dict[str, None] = {}
        self._archive = Archive(problem)

    def ask(self, count: int) -> Sequence[Policy]:
        """Return up to `count` policies that no searcher proposed before."""
        policies: list[Policy] = []
        while len(policies) < count and (policy := self._propose()) is not None:
            policies.append(policy)
        return policies

    def author_of(self, policy: Policy) -> str | None:
        """Return the title of the searcher that proposed `policy`."""
        key = self._key(policy)
        return self._authors.get(key) if key else None

    def tell(self, trial: Trial) -> None:
        """Tell every searcher, and credit the one that proposed the trial's policy.

        Results of generated weights are told only to whom the generator belongs: to the
        others they would say of a policy what it does not hold.
        """
        key, author = self._key(trial.policy), self.author_of(trial.policy)
        if key is None:
            return  # of another network
        if key not in self._told:
            self._told[key] = None
            self._credit(trial, author)
        for share in self._shares.values():
            if trial.policy.recipe.pruning_net is None or share.title == author:
                self._guarded(share, lambda searcher: searcher.tell(trial))

    @property
    def training(self) -> TrainingRequest | None:
        """What the first searcher that needs it wants to be trained."""
        share = self._in_training()
        return share.searcher.training if share else None

    def trained(self, progress: TrainingProgress | None) -> None:
        """Hand progress to the searcher in training.

        What training took is no part of its account: it is spent, and the next trials of
        this searcher cost as much as anybody's.
        """
        share = self._in_training()
        if share is None:
            return
        if progress is None:
            share.retire("could not be trained")
            return
        self._guarded(share, lambda searcher: searcher.trained(progress))

    def _propose(self) -> Policy | None:
        state = self._rng.bit_generator.state
        for share in self._in_turn():
            for _ in range(_REPETITIONS):
                policies: Sequence[Policy] = self._guarded(share, lambda x: x.ask(1)) or ()
                if not policies:
                    break
                policy = policies[0]
                key = self._key(policy)
                if key is not None and key not in self._authors:
                    self._authors[key] = share.title
                    return policy
        self._rng.bit_generator.state = state  # an empty answer leaves no trace
        return None

    def _in_turn(self) -> Iterator[_Share]:
        """Yield the searchers that may be asked, drawn by credit without replacement."""
        ready = [
            each
            for each in self._shares.values()
            if not each.is_retired and each.searcher.training is None
        ]
        while ready:
            index = int(self._rng.choice(len(ready), p=self._odds(ready)))
            yield ready.pop(index)

    def _odds(self, ready: Sequence[_Share]) -> np.ndarray:
        """Return the chance of each to be asked, shape (n,).

        Credit is what a searcher gained per second, over what all gained at that time, and
        drawn towards one by as much as one trial weighs.
        """
        gained = np.array([each.gained for each in ready])
        spent = np.array([each.spent for each in ready])
        credit = ((gained + 1.0) / (spent + 1.0)) ** _SHARPNESS
        even = np.full(len(ready), 1.0 / len(ready))
        rest = 1.0 - self._exploration
        odds: np.ndarray = self._exploration * even + rest * credit / credit.sum()
        return odds

    def _credit(self, trial: Trial, author: str | None) -> None:
        """Book what a trial gained and cost; what others than the searchers tried is free.

        Both are measured against what trials gain and cost at present: the first ones gain
        a hundred times what later ones do, whoever makes them.
        """
        gained = self._archive.add(trial)
        share = self._shares.get(author or "")
        if share is None:
            return
        if trial.state is TrialState.INFEASIBLE:
            share.fruitless += 1
            if share.fruitless >= _PATIENCE and not share.is_retired:
                share.retire("proposes nothing feasible")
            return
        for each in self._shares.values():
            each.gained *= self._discount
            each.spent *= self._discount
        share.fruitless = 0
        share.gained += self._archive.relative(gained)
        share.spent += self._archive.seconds(trial) / self._archive.mean_seconds

    def _in_training(self) -> _Share | None:
        waiting = (
            each
            for each in self._shares.values()
            if not each.is_retired and each.searcher.training is not None
        )
        return next(waiting, None)

    def _guarded(self, share: _Share, call: Any) -> Any:
        """Call a searcher; one that raises is retired, and the others go on."""
        if share.is_retired:
            return None
        try:
            return call(share.searcher)
        except Exception:
            share.retire("raised", with_traceback=True)
            return None

    def _key(self, policy: Policy) -> str | None:
        try:
            return self.problem.groups.canonical(policy).sha256
        except PolicyError:
            return None

    def state_dict(self) -> dict[str, Any]:
        """Return the accounts, the archive, and the state of every searcher."""
        return {
            "rng": self._rng.bit_generator.state,
            "authors": dict(self._authors),
            "told": list(self._told),
            "archive": self._archive.state_dict(),
            "shares": {
                each.title: {
                    "searcher": each.searcher.state_dict(),
                    "gained": each.gained,
                    "spent": each.spent,
                    "fruitless": each.fruitless,
                    "is_retired": each.is_retired,
                }
                for each in self._shares.values()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._rng.bit_generator.state = state["rng"]
        self._authors = dict(state["authors"])
        self._told = dict.fromkeys(state["told"])
        self._archive.load_state_dict(state["archive"])
        for title, each in state["shares"].items():
            share = self._shares[title]
            share.searcher.load_state_dict(each["searcher"])
            share.gained, share.spent = each["gained"], each["spent"]
            share.fruitless, share.is_retired = each["fruitless"], each["is_retired"]


def team_of(spec: PluginSpec) -> tuple[PluginSpec, ...]:
    """Return the searchers that a portfolio of these options is made of."""
    named = spec.options.get("searchers", DEFAULT_TEAM)
    return TypeAdapter(tuple[Plugin, ...]).validate_python(named)


def titled(specs: Sequence[PluginSpec]) -> dict[str, PluginSpec]:
    """Return the specs under unique titles: their names, numbered where they recur."""
    found: dict[str, PluginSpec] = {}
    for spec in specs:
        title, count = spec.name, 1
        while title in found:
            count += 1
            title = f"{spec.name}-{count}"
        found[title] = spec
    return found


def _create(spec: PluginSpec, problem: SearchProblem, seed: int, title: str) -> Searcher:
    entropy = [seed, *title.encode()]
    own = int(np.random.SeedSequence(entropy).generate_state(1)[0]) >> 1
    searcher: Searcher = plugins.create("searcher", spec, problem, seed=own)
    return searcher
