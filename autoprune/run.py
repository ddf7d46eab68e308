"""A run, seen from outside: its job, trials, front and figures, read from its log.

    run = Run.open(Path("runs/digits"))
    run.front().knee()                    # a Trial
    run.front_json()                      # what `autoprune front --format json` prints

A run is a directory: `store.sqlite` holds the log, or `store.json` says in which database it
is; `files/` holds the weights of reported trials, `report.html` is the report. Reading needs
no torch and never changes anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from autoprune.contracts.objective import Goal
from autoprune.contracts.store import JobRecord
from autoprune.controller.forecast import ForecastError, Forecasts
from autoprune.errors import InputError, RunError, suggestion
from autoprune.fidelity import policy_at
from autoprune.front import Front
from autoprune.graph.network import NetworkGraph
from autoprune.job.constraint import Constraint
from autoprune.job.spec import Job
from autoprune.metrics import goals_of, metrics_of, referenced
from autoprune.policy import Policy
from autoprune.store.history import History
from autoprune.store.location import open_store, record_of
from autoprune.trial import Evaluation, Trial, TrialState

FILES_NAME = "files"
REPORT_NAME = "report.html"


class Run:
    """One job as its log tells it. `directory` is where its files lie."""

    def __init__(self, directory: Path, record: JobRecord, history: History) -> None:
        self.directory = directory
        self.job = Job.model_validate(record.spec["job"])
        self.preparation = record.spec["preparation"]
        self.history = history
        self.graph = NetworkGraph.from_json(self.preparation["graph"])

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Read a run; raises `RunError` if `directory` holds none."""
        with open_store(directory, read_only=True) as store:
            record = record_of(directory, store)
            history = History.replay(store.events(record.name))
        return cls(directory, record, history)

    @cached_property
    def goals(self) -> tuple[Goal, ...]:
        """The objectives, with reference points as soon as the dense network is measured."""
        dense = self.dense
        if dense is None or dense.evaluation is None:
            return goals_of(self.job)
        return referenced(self.job, dense.evaluation, self.preparation["num_classes"])

    @property
    def dense(self) -> Trial | None:
        """The dense network's trial, if it has been asked."""
        return self.history.trials.get(0)

    @property
    def top_rung(self) -> int:
        """The highest rung with a completed trial."""
        return max((x.rung for x in self.completed() if x.number), default=0)

    def completed(self) -> list[Trial]:
        """Return every completed trial, the dense network included, by number."""
        return [x for x in self.history.trials.values() if x.state is TrialState.COMPLETED]

    def front(self, searcher: str | None = None, *, on_report: bool = False) -> Front:
        """Return the front of the highest rung, of one searcher's own trials where named.

        With `on_report` the members are those of the search split, judged by their values
        on the report split.
        """
        members = Front(self.goals, significance=self.job.significance)
        for trial in self.completed():
            is_wanted = searcher is None or trial.searcher == searcher
            if is_wanted and trial.rung == self.top_rung:
                members.add(trial)
        if not on_report:
            return members
        reported = [trial for trial in members.members if trial.report is not None]
        return Front.of(reported, self.goals, use_report=True)

    def forecast_errors(self) -> dict[str, ForecastError]:
        """Return how far predictions of what is dear to measure were off, by metric."""
        found = Forecasts(metrics_of(self.job), self.graph.costs)
        for trial in self.completed():
            found.take(trial)
        return found.errors()

    def trial(self, name: str) -> Trial:
        """Return a trial by number, `knee`, `best:METRIC` or `weights:METRIC=W,…`.

        Raises `RunError` for a trial that is not there and `InputError` for another form.
        """
        if name.isdigit():
            trial = self.history.trials.get(int(name))
            if trial is None:
                raise RunError(f"trial {name} does not exist; there are {len(self.history.trials)}")
            return trial
        front = self.front()
        if not front.members:
            raise RunError("the front is empty: no trial has completed yet")
        if name == "knee":
            return front.knee()
        if match := re.fullmatch(r"best:(\w+)", name):
            self._check_metric(match[1])
            return front.best(match[1])
        if name.startswith("weights:"):
            return front.weighted(self._weights(name.removeprefix("weights:")))
        raise InputError(
            f"cannot pick {name!r}; allowed: a trial number, knee, best:METRIC, "
            "weights:METRIC=WEIGHT,METRIC=WEIGHT"
        )

    def select(
        self,
        *,
        everything: bool = False,
        where: Sequence[str] = (),
        sort: str | None = None,
        top: int | None = None,
    ) -> list[Trial]:
        """Return trials of the front, or all completed ones, filtered, sorted and cut.

        `where` holds bounds such as `latency_ms<=4`; `sort` names a metric, best first.
        Raises `InputError` for a bound or metric that cannot be used.
        """
        trials = self.completed() if everything else self.front().members
        for text in where:
            trials = [x for x in trials if self._holds(text, x)]
        by = sort or self.goals[0].name
        self._check_metric(by)
        sign = {goal.name: goal.loss(1.0) for goal in self.goals}.get(by, 1.0)
        ordered = sorted(trials, key=lambda x: (sign * shown(x).value(by), x.number))
        return ordered[:top]

    def front_json(self, trials: Iterable[Trial] | None = None) -> dict[str, Any]:
        """Return the front (or `trials`) in the documented JSON form."""
        front = self.front()
        goals = self.goals
        return {
            "job": self.job.name,
            "objectives": [{"name": x.name, "unit": x.unit, "goal": x.goal} for x in goals],
            "hypervolume": front.hypervolume(),
            "reference_point": [goal.reference for goal in goals],
            "trials": [self._row(trial) for trial in (self.select() if trials is None else trials)],
        }

    def as_evaluated(self, trial: Trial) -> Policy:
        """Return the policy of a trial with the bits that its rung gives it."""
        return policy_at(self.job, self.graph.groups, trial.policy, trial.rung)

    def show_json(self, trial: Trial) -> dict[str, Any]:
        """Return everything about a trial: policy in units, costs, measurements, provenance."""
        groups = self.graph.groups
        kept = groups.kept_units(trial.policy)
        # Nothing is left of groups within dropped blocks.
        kept |= dict.fromkeys(groups.vanishing(trial.policy), 0)
        policy = self.as_evaluated(trial)
        costs = self.graph.costs.costs(policy)
        same = [x for x in self.history.trials.values() if x.policy == trial.policy]
        return {
            **self._row(trial),
            "state": str(trial.state),
            "parent": trial.parent,
            "attempts": trial.attempts,
            "failure": trial.failure.to_json() if trial.failure else None,
            "costs": {
                "macs": costs.macs,
                "params": costs.params,
                "size_bytes": costs.size_bytes,
                "bitops": costs.bitops,
            },
            "units": {group.name: [kept[group.name], group.units] for group in groups.prunable},
            "dropped": sorted(trial.policy.dropped),
            "layers": {name: asdict(each) for name, each in policy.layers.items()},
            "evaluations": [
                {"trial": x.number, "rung": x.rung, "split": split, **each.to_json()}
                for x in same
                for split, each in (("search", x.evaluation), ("report", x.report))
                if each is not None
            ],
            "dominated_by": [x.number for x in self.front().members if self._dominates(x, trial)],
        }

    def _dominates(self, one: Trial, other: Trial) -> bool:
        if one.number == other.number or other.state is not TrialState.COMPLETED:
            return False
        pair = Front(self.goals)
        pair.add(other)
        return pair.add(one) and [x.number for x in pair.members] == [one.number]

    def _row(self, trial: Trial) -> dict[str, Any]:
        evaluation = shown(trial) if trial.evaluation else None
        objectives = {
            goal.name: {"value": each.value, "low": each.low, "high": each.high}
            for goal in self.goals
            if evaluation and (each := evaluation.measurements.get(goal.name))
        }
        deployment = evaluation.deployment if evaluation else None
        return {
            "id": trial.number,
            "policy_sha256": trial.policy.sha256,
            "searcher": trial.searcher,
            "rung": trial.rung,
            "objectives": objectives,
            "policy": trial.policy.to_json(),
            **({"deployment": deployment.to_json()} if deployment else {}),
        }

    def _holds(self, text: str, trial: Trial) -> bool:
        try:
            bound = Constraint.parse(text)
        except ValueError as error:
            raise InputError(f"--where {text!r}: {error}") from error
        self._check_metric(bound.metric)
        dense = self.dense
        base = shown(dense).value(bound.metric) if dense and dense.evaluation else 0.0
        return bound.violation(shown(trial).value(bound.metric), base) == 0.0

    def _weights(self, text: str) -> dict[str, float]:
        weights = {}
        for part in text.split(","):
            metric, _, weight = part.partition("=")
            self._check_metric(metric)
            try:
                weights[metric] = float(weight)
            except ValueError:
                raise InputError(
                    f"weight of {metric!r} must be a number, given: {weight!r}"
                ) from None
        return weights

    def _check_metric(self, metric: str) -> None:
        known = {
            x for each in self.completed() if each.evaluation for x in each.evaluation.measurements
        }
        if metric not in known:
            raise InputError(f"unknown metric {metric!r}; {suggestion(metric, known)}")


def shown(trial: Trial) -> Evaluation:
    """Return the evaluation that people see: on the report split once it is measured there."""
    evaluation = trial.report or trial.evaluation
    assert evaluation is not None, f"trial {trial.number} has no evaluation"
    return evaluation
