"""What can be asked of a run, wherever its log lies: trials, front, one trial, an export.

    run.front().knee()                    # a Trial
    run.select(where=["macs<=2e7"], sort="error", top=5)
    run.front_json()                      # what `autoprune front --format json` prints
    run.export(run.trial("knee"), "onnx", Path("knee.onnx"))

`Run` reads a directory, `RemoteRun` of `cluster.client` asks a server. Both answer alike, from
one look at the log: what a search does after they were opened, another one sees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from autoprune.contracts.exported import Exported
from autoprune.contracts.objective import Goal
from autoprune.controller.forecast import ForecastError, Forecasts
from autoprune.errors import InputError, RunError, suggestion
from autoprune.fidelity import policy_at
from autoprune.front import Front
from autoprune.graph.network import NetworkGraph
from autoprune.job.constraint import Constraint
from autoprune.job.spec import Job
from autoprune.job_space import space_of
from autoprune.metrics import goals_of, metrics_of, referenced
from autoprune.pick import Pick
from autoprune.policy import Policy
from autoprune.space import SearchSpace
from autoprune.trial import Trial, TrialState, shown
from autoprune.trial_json import dominators, trial_details, trial_row

_DENSE = 0


class RunView(ABC):
    """One job as its log tells it. Derived classes find trials; everything else follows."""

    job: Job

    @property
    @abstractmethod
    def preparation(self) -> Mapping[str, Any]:
        """What was found out about the network before the search, as JSON."""

    @abstractmethod
    def trials(self) -> Sequence[Trial]:
        """Return every trial that was asked, the dense network included, by number."""

    @abstractmethod
    def find(self, number: int) -> Trial | None:
        """Return the trial with a number, None if it was never asked."""

    @abstractmethod
    def export(self, trial: Trial, to: str, out: Path, **options: Any) -> Exported:
        """Write a trial in the format `to`, a name of `autoprune plugins`, with its options.

        The file was read back and compared before `out` gets its name. Raises `ExportError`
        where the trial has no network or `out` cannot be used, and `InputError` for an unknown
        format.
        """

    @cached_property
    def graph(self) -> NetworkGraph:
        """Groups and costs of the network."""
        return NetworkGraph.from_json(self.preparation["graph"])

    @cached_property
    def space(self) -> SearchSpace:
        """What was searched."""
        return space_of(self.job, self.graph.groups, self.preparation["multiple"])

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
        return self.find(_DENSE)

    @property
    def top_rung(self) -> int:
        """The highest rung with a completed trial."""
        return max((x.rung for x in self.completed() if x.number), default=0)

    def completed(self) -> list[Trial]:
        """Return every completed trial, the dense network included, by number."""
        return [x for x in self.trials() if x.state is TrialState.COMPLETED]

    def front(self, searcher: str | None = None, *, on_report: bool = False) -> Front:
        """Return the front of the highest rung, of one searcher's own trials where named.

        With `on_report` the members are those of the search split, judged by their values
        on the report split.
        """
        members = self._front(searcher)
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
        pick = Pick.parse(name)
        if pick.number is None:
            return pick.among(self.front())
        trial = self.find(pick.number)
        if trial is None:
            raise RunError(
                f"trial {pick.number} of {self.job.name} does not exist; trials are numbered "
                "from 0 in the order of asking"
            )
        return trial

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
        bounds = [self._bound(text) for text in where]
        if sort is not None:
            self._check_metric(sort)
        trials = self.completed() if everything else self.front().members
        kept = [x for x in trials if all(self._holds(each, x) for each in bounds)]
        by = sort or self.goals[0].name
        sign = {goal.name: goal.loss(1.0) for goal in self.goals}.get(by, 1.0)
        ordered = sorted(kept, key=lambda x: (sign * shown(x).value(by), x.number))
        return ordered[:top]

    def front_json(self, trials: Iterable[Trial] | None = None) -> dict[str, Any]:
        """Return the front (or `trials`) in the documented JSON form."""
        front, goals = self.front(), self.goals
        listed = self.select() if trials is None else trials
        return {
            "job": self.job.name,
            "objectives": [{"name": x.name, "unit": x.unit, "goal": x.goal} for x in goals],
            "hypervolume": front.hypervolume(),
            "reference_point": [goal.reference for goal in goals],
            "trials": [trial_row(trial, goals) for trial in listed],
        }

    def as_evaluated(self, trial: Trial) -> Policy:
        """Return the policy of a trial with the bits that its rung gives it."""
        return policy_at(self.job, self.graph.groups, trial.policy, trial.rung)

    def show_json(self, trial: Trial) -> dict[str, Any]:
        """Return everything about a trial: policy in units, costs, measurements, provenance."""
        return trial_details(
            trial,
            job=self.job,
            graph=self.graph,
            goals=self.goals,
            same=[x for x in self.trials() if x.policy == trial.policy],
            dominated_by=dominators(trial, self.front().members, self.goals),
        )

    def _front(self, searcher: str | None) -> Front:
        front, top = Front(self.goals, significance=self.job.significance), self.top_rung
        for trial in self.completed():
            is_wanted = searcher is None or trial.searcher == searcher
            if is_wanted and trial.rung == top:
                front.add(trial)
        return front

    def _bound(self, text: str) -> Constraint:
        try:
            bound = Constraint.parse(text)
        except ValueError as error:
            raise InputError(f"--where {text!r}: {error}") from error
        self._check_metric(bound.metric)
        return bound

    def _holds(self, bound: Constraint, trial: Trial) -> bool:
        dense = self.dense
        base = shown(dense).value(bound.metric) if dense and dense.evaluation else 0.0
        return bound.violation(shown(trial).value(bound.metric), base) == 0.0

    def _check_metric(self, metric: str) -> None:
        dense = self.dense
        if dense and dense.evaluation and metric in dense.evaluation.measurements:
            return
        known = {
            x for each in self.completed() if each.evaluation for x in each.evaluation.measurements
        }
        if metric not in known:
            raise InputError(f"unknown metric {metric!r}; {suggestion(metric, known)}")
