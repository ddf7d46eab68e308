"""The searchers of a job: who may propose, how many trials are theirs, and their replay.

A searcher's state is a function of the job, the seed and the order of its calls. The log
holds that order, so a roster is rebuilt by making the same calls again (`ask_again`,
`learn`, `learn_repetition`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune import plugins
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.contracts.store import Event
from autoprune.graph.group import GroupTable
from autoprune.job.spec import Job, PluginSpec
from autoprune.policy import Policy
from autoprune.trial import Trial, TrialState

_log = logging.getLogger(__name__)
DENSE = "dense"
# Proposals in a row that cost nothing (known or infeasible) before a searcher is given up.
PATIENCE = 500


@dataclass
class Member:
    """A searcher under its label. Baselines are yardsticks: nobody tells them anything."""

    label: str
    searcher: Searcher
    is_baseline: bool
    idle_asks: int = 0
    is_retired: bool = False


class Roster:
    """All searchers of a job. Several share the budget evenly; all learn from every trial."""

    def __init__(self, job: Job, problem: SearchProblem) -> None:
        self.job = job
        self.groups: GroupTable = problem.groups
        self.members = {
            label: Member(label, _create(spec, problem, job.seed, label), is_baseline)
            for label, (spec, is_baseline) in labels_of(job).items()
        }

    def ask(self, label: str) -> Policy | None:
        """Return the next canonical policy of a searcher; None when it has none now.

        A searcher that raises is retired with a warning; the search goes on.
        """
        member = self.members[label]
        try:
            policies = member.searcher.ask(1)
        except Exception:
            member.is_retired = True
            _log.warning("searcher %s raised while asked and is retired", label, exc_info=True)
            return None
        return self.groups.canonical(policies[0]) if policies else None

    def ask_again(self, event: Event) -> None:
        """Make the call again that a logged ASKED or REPEATED event was the answer to."""
        label = event.body["searcher"]
        if label not in self.members or event.body.get("parent") is not None:
            return  # the dense network and promotions were nobody's proposal
        if self.ask(label) != Policy.from_json(event.body["policy"]):
            _log.warning(
                "searcher %s does not repeat its logged proposal for trial %s; it goes on "
                "from its new state",
                label,
                event.trial,
            )

    def learn(self, trial: Trial) -> None:
        """Let the searchers know of a trial that has just ended."""
        if trial.searcher not in self.members or trial.rung > 0:
            return  # values of different rungs cannot be ranked against each other
        self._note(trial.searcher, costs_nothing=trial.state is TrialState.INFEASIBLE)
        for member in self.members.values():
            self._tell(member, trial)

    def learn_repetition(self, label: str, trial: Trial) -> None:
        """Answer a repeated proposal with the trial that knows, as far as it has ended."""
        self._note(label, costs_nothing=True)
        if trial.state.is_terminal:
            self._tell(self.members[label], trial)

    def _tell(self, member: Member, trial: Trial) -> None:
        if member.is_baseline or member.is_retired:
            return
        try:
            member.searcher.tell(trial)
        except Exception:
            member.is_retired = True
            _log.warning("searcher %s raised and is retired", member.label, exc_info=True)

    def _note(self, label: str, costs_nothing: bool) -> None:
        """Count fruitless proposals in a row; too many of them retire the searcher."""
        member = self.members[label]
        member.idle_asks = member.idle_asks + 1 if costs_nothing else 0
        if member.idle_asks >= PATIENCE:
            member.is_retired = True
            _log.warning("searcher %s proposes nothing new or feasible and is retired", label)


def labels_of(job: Job) -> Mapping[str, tuple[PluginSpec, bool]]:
    """Return label → (searcher, is it a baseline), baselines first; labels are unique."""
    wanted = [(spec, True) for spec in job.baselines.searchers]
    wanted += [(spec, False) for spec in job.searchers]
    labels: dict[str, tuple[PluginSpec, bool]] = {}
    for spec, is_baseline in wanted:
        label, count = spec.name, 1
        while label in labels:
            count += 1
            label = f"{spec.name}-{count}"
        labels[label] = (spec, is_baseline)
    return labels


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
