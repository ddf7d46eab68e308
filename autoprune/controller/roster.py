"""The searchers of a job: the one that spends the budget, the baselines, and their replay.

Several searchers of a job are one portfolio, which says of each proposal whose it is. A
searcher's state is a function of the job, the seed and the order of its calls. The log
holds that order, so a roster is rebuilt by making the same calls again (`ask_again`,
`learn`, `learn_repetition`, `trained`), from its beginning or from a snapshot.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.portfolio import Portfolio, team_of, titled
from autoprune import plugins
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.contracts.store import Event
from autoprune.contracts.training import TrainingProgress, TrainingRequest
from autoprune.errors import PluginError
from autoprune.graph.group import GroupTable
from autoprune.job.spec import Job, PluginSpec
from autoprune.policy import Policy
from autoprune.trial import Trial, TrialState

_log = logging.getLogger(__name__)
DENSE = "dense"
WARM_START = "warm_start"
# Proposals in a row that cost nothing (known or infeasible) before a searcher is given up.
PATIENCE = 500


@dataclass
class Member:
    """A searcher that is asked. Baselines are yardsticks: nobody tells them anything."""

    label: str
    searcher: Searcher
    is_baseline: bool
    idle_asks: int = 0
    is_retired: bool = False

    def retire(self, why: str, *, with_traceback: bool = False) -> None:
        """Ask and tell this searcher no more."""
        self.is_retired = True
        _log.warning("searcher %s %s and is retired", self.label, why, exc_info=with_traceback)


class Roster:
    """All searchers of a job, each under the label by which it is asked.

    Raises `PluginError` where a searcher cannot serve the problem.
    """

    def __init__(self, job: Job, problem: SearchProblem) -> None:
        self.groups: GroupTable = problem.groups
        self.members: dict[str, Member] = {}
        for label in baseline_labels(job):
            spec, _ = labels_of(job)[label]
            searcher = _create(spec, problem, job.seed, label)
            if isinstance(searcher, Portfolio) or searcher.training is not None:
                raise PluginError(
                    f"{spec.name} cannot be a baseline: those hear of nothing and are not "
                    "trained; name it under searchers"
                )
            self.members[label] = Member(label, searcher, is_baseline=True)
        labels = search_labels(job)
        self.head = Portfolio.__name__.lower() if is_portfolio(job) else labels[0]
        spec = portfolio_spec(job) if is_portfolio(job) else labels_of(job)[self.head][0]
        searcher = _create(spec, problem, job.seed, self.head)
        self.members[self.head] = Member(self.head, searcher, is_baseline=False)
        # A portfolio titles its searchers by itself; a baseline may have the same title.
        titles = titled(team_of(spec)) if is_portfolio(job) else ()
        self._labels = dict(zip(titles, labels, strict=False))

    def ask(self, label: str) -> tuple[str, Policy] | None:
        """Return the next canonical policy of a searcher, and the label of its author.

        None when it has none now. A searcher that raises is retired with a warning; the
        search goes on.
        """
        member = self.members[label]
        try:
            policies = member.searcher.ask(1)
        except Exception:
            member.retire("raised while asked", with_traceback=True)
            return None
        if not policies:
            return None
        author = member.searcher.author_of(policies[0])
        return self._labels[author] if author else label, self.groups.canonical(policies[0])

    def ask_again(self, event: Event) -> None:
        """Make the call again that a logged ASKED or REPEATED event was the answer to."""
        label = self._asked_as(event.body["searcher"])
        if label is None or event.body.get("parent") is not None:
            return  # the dense network, seeds and promotions were nobody's proposal
        logged = event.body["searcher"], Policy.from_json(event.body["policy"])
        if self.ask(label) != logged:
            _log.warning(
                "searcher %s does not repeat its logged proposal for trial %s; it goes on "
                "from its new state",
                label,
                event.trial,
            )

    def learn(self, trial: Trial) -> None:
        """Let the searcher know of a trial that has just ended, unless it is a baseline's."""
        if trial.rung > 0:
            return  # values of different rungs cannot be ranked against each other
        label = self._asked_as(trial.searcher)
        if label is not None:
            self._note(label, costs_nothing=trial.state is TrialState.INFEASIBLE)
        if label is None or not self.members[label].is_baseline:
            self._tell(trial)

    def learn_repetition(self, author: str, trial: Trial) -> None:
        """Answer a repeated proposal with the trial that knows, as far as it has ended."""
        label = self._asked_as(author)
        assert label is not None
        self._note(label, costs_nothing=True)
        if trial.state.is_terminal and not self.members[label].is_baseline:
            self._tell(trial)

    @property
    def training(self) -> TrainingRequest | None:
        """What the searcher wants to be trained before it goes on."""
        member = self.members[self.head]
        return None if member.is_retired else member.searcher.training

    def trained(self, progress: TrainingProgress | None) -> None:
        """Let the searcher know of its training; None means that it failed for good."""
        member = self.members[self.head]
        if member.is_retired:
            return
        try:
            member.searcher.trained(progress)
        except Exception:
            member.retire("raised while trained", with_traceback=True)
            return
        if progress is None and member.searcher.training is not None:
            member.retire("could not be trained")

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every searcher: JSON values and numpy arrays."""
        return {
            label: {
                "searcher": each.searcher.state_dict(),
                "idle_asks": each.idle_asks,
                "is_retired": each.is_retired,
            }
            for label, each in self.members.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        for label, each in self.members.items():
            each.searcher.load_state_dict(state[label]["searcher"])
            each.idle_asks = state[label]["idle_asks"]
            each.is_retired = state[label]["is_retired"]

    def _asked_as(self, author: str) -> str | None:
        """Return the label under which an author is asked; None for what nobody proposed."""
        if author in self.members:
            return author
        return self.head if author in self._labels.values() else None

    def _tell(self, trial: Trial) -> None:
        member = self.members[self.head]
        if member.is_retired:
            return
        try:
            member.searcher.tell(trial)
        except Exception:
            member.retire("raised while told", with_traceback=True)

    def _note(self, label: str, costs_nothing: bool) -> None:
        """Count fruitless proposals in a row; too many of them retire the searcher."""
        member = self.members[label]
        member.idle_asks = member.idle_asks + 1 if costs_nothing else 0
        if member.idle_asks >= PATIENCE and not member.is_retired:
            member.retire("proposes nothing new or feasible")


def is_portfolio(job: Job) -> bool:
    """Say whether several searchers share the job's budget."""
    return len(job.searchers) != 1 or job.searchers[0].name == "portfolio"


def portfolio_spec(job: Job) -> PluginSpec:
    """Return the portfolio that a job names, or the one of the searchers that it names."""
    if len(job.searchers) == 1:
        return job.searchers[0]
    options = {"searchers": list(job.searchers)} if job.searchers else {}
    return PluginSpec(name="portfolio", options=options)


def labels_of(job: Job) -> Mapping[str, tuple[PluginSpec, bool]]:
    """Return label → (searcher, is it a baseline), baselines first; labels are unique."""
    searchers = team_of(portfolio_spec(job)) if is_portfolio(job) else job.searchers
    wanted = [*job.baselines.searchers, *searchers]
    count = len(job.baselines.searchers)
    return {
        label: (spec, index < count) for index, (label, spec) in enumerate(titled(wanted).items())
    }


def search_labels(job: Job) -> Sequence[str]:
    """Return the labels that spend the job's budget."""
    return [label for label, (_, is_baseline) in labels_of(job).items() if not is_baseline]


def baseline_labels(job: Job) -> Sequence[str]:
    """Return the labels of the yardsticks."""
    return [label for label, (_, is_baseline) in labels_of(job).items() if is_baseline]


def seed_of(job_seed: int, purpose: str) -> int:
    """Return an independent 31-bit seed for one purpose of a job."""
    digest = hashlib.sha256(f"{job_seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _create(spec: PluginSpec, problem: SearchProblem, seed: int, label: str) -> Searcher:
    searcher: Searcher = plugins.create("searcher", spec, problem, seed=seed_of(seed, label))
    return searcher
