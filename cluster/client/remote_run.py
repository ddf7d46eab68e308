"""A run whose log lies with a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune import plugins
from autoprune.contracts.exported import Exported
from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.contracts.objective import Goal
from autoprune.errors import InputError, RunError
from autoprune.front import Front
from autoprune.job.spec import Job, PluginSpec
from autoprune.run_view import RunView
from autoprune.trial import Trial, TrialState
from cluster.client import call as calls
from cluster.client.message import JobStatus, goal_of, trial_of
from cluster.proto.autoprune.v1.front_service_pb2 import QueryFrontResponse

if TYPE_CHECKING:
    from cluster.client.sync import Client


class RemoteRun(RunView):
    """One job of a server, as `Run` is one of a directory; `client.run(name)` returns it.

    What is asked for is fetched once and kept: `client.run` looks anew. `status` is where the
    job stood when this was made. Every method raises what `Client` raises.
    """

    def __init__(self, client: Client, status: JobStatus) -> None:
        self.status = status
        self.job = Job.model_validate(status.spec)
        self._client = client
        self._found: dict[int, Trial] = {}

    @cached_property
    def preparation(self) -> Mapping[str, Any]:
        """What was found out about the network; raises `RunError` before that is done."""
        found = self._client.made(calls.get_job(self._name, with_preparation=True)).preparation
        if found is None:
            raise RunError(
                f"the network of {self._name} has not been examined yet: the job is "
                f"{self.status.state}; watch it, and ask again when it runs"
            )
        return found

    @cached_property
    def goals(self) -> tuple[Goal, ...]:
        """The objectives, with reference points as soon as the dense network is measured."""
        return tuple(map(goal_of, self._front_pages[0].objectives))

    def trials(self) -> Sequence[Trial]:
        """Return every trial that was asked, the dense network included, by number."""
        return self._all_trials

    def completed(self) -> list[Trial]:
        """Return every completed trial, the dense network included, by number."""
        return list(self._completed)

    def find(self, number: int) -> Trial | None:
        """Return the trial with a number, None if it was never asked."""
        if number not in self._found:
            try:
                found = self._client.made(calls.get_trial(self._name, str(number)))
            except RunError:
                return None
            self._found[number] = found
        return self._found[number]

    def show_json(self, trial: Trial) -> dict[str, Any]:
        """Return everything about a trial: policy in units, costs, measurements, provenance."""
        return dict(self._client.explain(self._name, trial.number).details)

    def export(self, trial: Trial, to: str, out: Path, **options: Any) -> Exported:
        """Write a trial in a format; see `RunView`.

        Networks are written by the server, which has weights and data. What the run has found
        is written here, of what the server tells: it needs neither, and its files name each
        other as they are called here.
        """
        if to in plugins.names("exporter"):  # the server may know more
            exporter = plugins.create("exporter", PluginSpec(name=to, options=options))
            if isinstance(exporter, RunExporter):
                return exporter.export(Chosen(self, trial), out)
        if options:
            raise InputError(f"a server takes no options for {to}, given: {', '.join(options)}")
        return self._client.export(self._name, trial.number, to, out)

    def _front(self, searcher: str | None) -> Front:
        if searcher is not None or self.job.significance is not None:
            return super()._front(searcher)
        members = [trial_of(x) for page in self._front_pages for x in page.trials]
        # By number, as trials come out of a log: the hypervolume is then the same to the last bit.
        return Front.of(sorted(members, key=lambda x: x.number), self.goals)

    @property
    def _name(self) -> str:
        return self.status.name

    @cached_property
    def _front_pages(self) -> Sequence[QueryFrontResponse]:
        """The front in full; pages of one answer are of one moment."""
        pages = self._client.paged(lambda token: calls.full_front_page(self._name, token))
        return list(pages)

    @cached_property
    def _all_trials(self) -> Sequence[Trial]:
        return list(self._client.paged(lambda token: calls.list_trials(self._name, token)))

    @cached_property
    def _completed(self) -> Sequence[Trial]:
        states = [TrialState.COMPLETED]
        return list(self._client.paged(lambda token: calls.list_trials(self._name, token, states)))
