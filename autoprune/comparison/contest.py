"""A comparison of methods from a job to a table of rows.

    request = Request(("l1", "taylor"), seeds=(0, 1, 2), shares=(0.5, 0.3))
    done = compare(job, request, Path("runs/digits-compare.json"))
    done.rows                                  # a Row for every method and share

Every evaluation is in the file as soon as it is finished; the same call again goes on from there.
Seeds come one after the other, so that what is there early has all methods in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from autoprune import plugins
from autoprune.comparison.arena import Arena, failed
from autoprune.comparison.entry import Entry, Outcome, measured_json
from autoprune.comparison.ledger import Ledger, check_place
from autoprune.comparison.method import Method, methods_of, require_recoveries
from autoprune.comparison.request import Request, compared_job
from autoprune.comparison.target import Target, targets_of
from autoprune.comparison.verdict import Row, rows_of
from autoprune.comparison.weight_target import weight_targets
from autoprune.contracts.objective import Objective, Stage
from autoprune.graph.group import GroupTable
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.preflight import Preflight, preflight


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a comparison is: evaluations that are done, of how many, and what comes next."""

    done: int
    total: int
    doing: str


Watcher: TypeAlias = Callable[[Standing], None]


def unwatched(standing: Standing) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what came of it.

    `left_out` are criteria that cannot judge the network, with the reason. Where nothing `trains`,
    a seed matters to criteria alone that draw at random.
    """

    job: Job
    request: Request
    criteria: tuple[str, ...]
    left_out: Mapping[str, str]
    targets: tuple[Target, ...]
    groups: GroupTable
    ledger: Ledger
    metrics: Mapping[str, Objective]
    trains: bool

    @cached_property
    def rows(self) -> list[Row]:
        """A row for every method and share; the order is that of `rows_of`."""
        request = self.request
        methods = methods_of(self.criteria, request.recoveries)
        return rows_of(self.ledger.entries, methods, request.shares, request.seeds)

    @property
    def indifferent(self) -> tuple[str, ...]:
        """The named recoveries that choose single weights without reading a criterion.

        With each of them all criteria end with the same network.
        """
        named = self.request.recoveries
        return tuple(x for x in named if not plugins.load("recovery", x).reads_criterion)

    @property
    def ascending(self) -> list[float]:
        """The shares, the smallest first."""
        return sorted(self.request.shares)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The job's metrics that need an exclusive process, and are not measured here."""
        return tuple(x for x, each in self.metrics.items() if each.stage is Stage.NETWORK)

    @property
    def counted(self) -> tuple[str, ...]:
        """The job's metrics that follow from counts: all methods have the same."""
        return tuple(x for x, each in self.metrics.items() if each.stage is Stage.COSTS)

    def target(self, share: float) -> Target:
        """Return the target of a share."""
        return next(each for each in self.targets if each.share == share)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `autoprune compare --format json` prints."""
        assert self.ledger.dense is not None
        scorings = self.ledger.scorings
        return {
            "job": self.job.name,
            "command": self.ledger.command,
            "file": str(self.ledger.path),
            "of": self.request.of,
            "pattern": self.request.pattern,
            "rung": self.request.rung,
            "seeds": list(self.request.seeds),
            "criteria": list(self.criteria),
            "recoveries": list(self.request.recoveries),
            "indifferent": list(self.indifferent),
            "left_out": dict(self.left_out),
            "unmeasured": list(self.unmeasured),
            "dense": measured_json(self.ledger.dense),
            "shares": [each.to_json(self.groups) for each in self.targets],
            "scorings": {x: scorings[x].to_json() for x in self.criteria if x in scorings},
            "rows": [{**row.to_json(), "policy": self._policy(row).to_json()} for row in self.rows],
            "settings": dict(self.ledger.settings),
            "versions": self.ledger.settings["versions"],
        }

    def _policy(self, row: Row) -> Policy:
        return row.method.applied_to(self.target(row.share).policy)


def compare(
    job: Job, request: Request, out: Path, *, command: str = "", watcher: Watcher = unwatched
) -> Comparison:
    """Compare methods on the network and the data of a job; finished evaluations are in `out`.

    Raises what `preflight` raises, `InputError` for criteria that cannot judge the network,
    recoveries that cannot serve and shares that cannot be reached, `RunError` for a file of
    another comparison: before anything is evaluated or written. An evaluation that fails is an
    entry. `KeyboardInterrupt` passes through.
    """
    request.check(job)
    check_place(out)
    found = preflight(compared_job(job, request))
    arena = Arena(found, of_weights=request.of_weights)
    criteria, left_out = request.chosen(arena.evidence)
    targets = _targets(request, found)
    require_recoveries(request.recoveries, found.job.rungs[0], [each.policy for each in targets])
    ledger = Ledger.open(out, arena.settings(request), command)
    _Contest(arena, request, criteria, targets, ledger, watcher).run()
    return Comparison(
        found.job,
        request,
        criteria,
        left_out,
        targets,
        found.preparation.graph.groups,
        ledger,
        arena.metrics,
        arena.trains,
    )


def _targets(request: Request, found: Preflight) -> tuple[Target, ...]:
    """Return what stays at every share: of all units, or of single weights."""
    if request.of == "weights":
        return weight_targets(request.shares, request.pattern, found)
    return targets_of(request.shares, request.of, found)


class _Contest:
    """The evaluations that are missing from a ledger, one after the other."""

    def __init__(
        self,
        arena: Arena,
        request: Request,
        criteria: tuple[str, ...],
        targets: tuple[Target, ...],
        ledger: Ledger,
        watcher: Watcher,
    ) -> None:
        self._arena = arena
        self._ledger = ledger
        self._watcher = watcher
        # All of one seed, then the next; within it all of one criterion, which is asked once.
        self._pairs = {
            (seed, criterion): [
                (method, target)
                for method in methods_of((criterion,), request.recoveries)
                for target in targets
            ]
            for seed in request.seeds
            for criterion in criteria
        }
        self._known = {
            each.outcome.network: each.outcome
            for each in ledger.entries.values()
            if each.outcome.failure is None
        }

    def run(self) -> None:
        """Measure the dense network, then whatever is missing."""
        if self._ledger.dense is None:
            self._tell("the dense network")
            self._ledger.dense = self._arena.dense()
        for (seed, criterion), pairs in self._pairs.items():
            missing = [each for each in pairs if not self._has(*each, seed)]
            if missing:
                self._evaluate(criterion, missing, seed)
        self._ledger.write()

    def _evaluate(self, criterion: str, pairs: list[tuple[Method, Target]], seed: int) -> None:
        """Ask a criterion once, and evaluate a network for every method and target."""
        failure = self._ranked(criterion, seed)
        for method, target in pairs:
            self._tell(f"{method} at {target.share}, seed {seed}")
            policy = method.applied_to(target.policy)
            outcome = failure or self._arena.outcome(policy, seed, self._known)
            if outcome.failure is None:
                self._known[outcome.network] = outcome
            self._ledger.add(Entry(method, target.share, seed, outcome))

    def _ranked(self, criterion: str, seed: int) -> Outcome | None:
        """Let a criterion rank what may leave; return why it cannot, if so."""
        self._tell(f"{criterion} scores, seed {seed}")
        is_new = criterion not in self._ledger.scorings
        try:
            ranking, scoring = self._arena.score(criterion, seed, alone=is_new)
        except Exception as error:  # one criterion that fails must not cost the others
            return failed(error)
        if is_new:
            self._ledger.scorings[criterion] = scoring
        self._arena.rank_by(criterion, ranking)
        return None

    def _has(self, method: Method, target: Target, seed: int) -> bool:
        entry = self._ledger.entries.get((method, target.share, seed))
        return entry is not None and entry.outcome.is_final

    def _tell(self, doing: str) -> None:
        is_done = [
            self._has(*each, seed) for (seed, _), pairs in self._pairs.items() for each in pairs
        ]
        self._watcher(Standing(sum(is_done), len(is_done), doing))
