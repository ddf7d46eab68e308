"""The clients and the real server: the same runs as in a directory, streams, and a lost server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from autoprune.contracts.store import Event
from autoprune.errors import InputError, JobError, RunError
from autoprune.run import Run
from autoprune.store.location import open_store
from autoprune.testing import RunContract
from autoprune.trial import TrialState
from cluster.client import AsyncClient, Client, JobState, Patience, RemoteRun
from tests.made_up_run import job, log
from tests.scripted_server import CLIENTS
from tests.service.conftest import Served, body_of

THREE = job(("error", "size_bytes", "macs"), rungs=2)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, idle: Served) -> Iterator[Any]:
    with request.param(idle.target) as client:
        yield client


def logged(served: Served, name: str, made: Any, **body: Any) -> Path:
    """Have a server know a job with a made-up log; return the directory of its run."""
    whole = body_of(name, **body)
    with Client(served.target) as client:
        try:
            client.job(name)
        except RunError:
            client.submit(whole)
            served.write_log(name, whole, made)
    return served.directory / "jobs" / served.submission(name).id


def events_in(directory: Path) -> list[Event]:
    with open_store(directory, read_only=True) as store:
        return list(store.events(store.jobs()[0].name))


class RemoteRunContract(RunContract):
    """The suite of every run over gRPC; and it is the run of the directory, to the last bit."""

    name: ClassVar[str]
    made: ClassVar[Any]
    body: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def local(self, idle: Served) -> Run:
        return Run.open(logged(idle, self.name, self.made, **self.body))

    @pytest.fixture
    def run(self, idle: Served, local: Run) -> Iterator[RemoteRun]:
        with Client(idle.target) as client:
            yield client.run(self.name)

    def test_what_is_printed_is_the_same_to_the_last_bit(self, run: RemoteRun, local: Run) -> None:
        assert json.dumps(run.front_json()) == json.dumps(local.front_json())
        for one, other in zip(run.trials(), local.trials(), strict=True):
            assert one == other
            assert json.dumps(run.show_json(one)) == json.dumps(local.show_json(other))


class TestPlain(RemoteRunContract):
    name, made = "plain", log()


class TestThreeObjectivesOnTwoRungs(RemoteRunContract):
    name, made = "rungs", log(rungs=2)
    body: ClassVar[dict[str, Any]] = {key: THREE[key] for key in ("objectives", "rungs")}


class TestSignificantAndUnreported(RemoteRunContract):
    name, made = "significant", log(is_reported=False)
    body: ClassVar[dict[str, Any]] = {"significance": 0.05}


def test_a_run_of_the_asynchronous_client_is_one(idle: Served) -> None:
    directory = logged(idle, "plain", log())

    async def fetched() -> dict[str, Any]:
        async with AsyncClient(idle.target) as client:
            run = await client.run("plain")
            return await asyncio.to_thread(run.front_json)

    assert asyncio.run(fetched()) == Run.open(directory).front_json()


def test_a_large_front_comes_in_pages(idle: Served) -> None:
    directory = logged(idle, "large", log(900, is_reported=False))
    with Client(idle.target) as client:
        run, local = client.run("large"), Run.open(directory)
        assert len(run.completed()) > 700
        assert run.completed() == local.completed()
        assert [x.number for x in client.query("large", everything=True).trials] == [
            x.number for x in local.select(everything=True)
        ]


def test_a_job_that_has_not_begun_has_no_front_yet(idle: Served, client: Any) -> None:
    name = f"new-{type(client).__name__.lower()}"
    assert client.submit(body_of(name)).state is JobState.QUEUED
    with Client(idle.target) as blocking:
        run = blocking.run(name)
        with pytest.raises(InputError, match="has not begun"):
            run.front_json()
        with pytest.raises(InputError, match="not been examined"):
            run.graph  # noqa: B018


def test_jobs_are_submitted_listed_and_removed(client: Any) -> None:
    name = f"kept-{type(client).__name__.lower()}"
    assert client.submit(body_of("dry"), validate_only=True).name == "dry"
    first = client.submit(body_of(name), "request")
    assert client.submit(body_of(name), "request") == first
    assert first.spec["model"]["name"] == "digits_cnn"
    with pytest.raises(RunError, match="already"):
        client.submit(body_of(name))
    names = [each.name for each in client.jobs()]
    assert names.count(name) == 1
    assert "dry" not in names
    assert name in [each.name for each in client.jobs(["queued"])]
    assert name not in [each.name for each in client.jobs([JobState.RUNNING, JobState.FAILED])]
    assert client.cancel(name).state is JobState.CANCELLED
    assert client.resume(name, trials=7).state is JobState.QUEUED
    assert client.job(name).spec["budget"]["trials"] == 7
    assert client.resume(name, trials=7) == client.resume(name) == client.job(name)
    with pytest.raises(InputError, match="only a job that has ended is resumed"):
        client.resume(name, trials=8)
    with pytest.raises(InputError, match="cancel it first"):
        client.delete(name)
    client.cancel(name, now=True)
    client.delete(name)
    for call in (client.job, client.cancel, client.resume, client.delete):
        with pytest.raises(RunError, match=name):
            call(name)
    with pytest.raises(InputError, match="lower-case"):
        client.job("../secret")


def test_everything_that_is_wrong_with_a_job_is_told(client: Any) -> None:
    body = body_of("Bad/Name", objectives=["eror"], budget={"trials": 0}, resources={"worker": 1})
    with pytest.raises(JobError) as caught:
        client.submit(body)
    found = {each.path: each for each in caught.value.violations}
    assert {"name", "budget.trials", "resources.worker"} <= found.keys()
    assert found["budget.trials"].given == 0
    assert "(given" not in found["budget.trials"].rule


def test_queries_are_those_of_the_run(idle: Served, client: Any) -> None:
    run = Run.open(logged(idle, "plain", log()))
    answer = client.query("plain")
    assert [each.number for each in answer.trials] == [each.number for each in run.select()]
    assert answer.hypervolume == run.front().hypervolume()
    assert answer.goals == run.goals
    assert answer.sequence == len(events_in(run.directory))
    some = ["macs <= 0.5 * dense", "error<=0.4"]
    found = client.query("plain", where=some, sort="macs", top=5, everything=True)
    expected = run.select(where=some, sort="macs", top=5, everything=True)
    assert [each.number for each in found.trials] == [each.number for each in expected]
    for pick in ("knee", "best:macs", "weights:error=3,macs=1"):
        (trial,) = client.query("plain", pick=pick).trials
        assert trial.number == run.trial(pick).number
    for each in found.trials:
        trial = run.trial(str(each.number))
        assert each.policy_sha256 == trial.policy.sha256
        assert trial.evaluation is not None
        assert each.objectives == dict(trial.evaluation.measurements)
    early = client.query("plain", sequence=3)
    assert ([each.number for each in early.trials], early.sequence) == ([0], 3)


def test_a_trial_is_explained(idle: Served, client: Any) -> None:
    run = Run.open(logged(idle, "plain", log()))
    members = {each.number for each in run.front().members}
    for trial in run.trials():
        found = client.explain("plain", trial.number)
        assert found.trial == trial
        assert found.on_front == (trial.number in members)
        assert list(found.dominated_by) == run.show_json(trial)["dominated_by"]
        assert bool(found.violations) == (trial.state is TrialState.INFEASIBLE)
    with pytest.raises(RunError, match="999"):
        client.explain("plain", 999)
    with pytest.raises(InputError, match="cannot pick 'elbow'"):
        client.explain("plain", "elbow")


def test_events_are_those_of_the_log(idle: Served, client: Any) -> None:
    expected = events_in(logged(idle, "plain", log()))
    assert list(client.watch("plain")) == expected
    assert list(client.watch("plain", after=40)) == expected[40:]
    assert list(client.watch("plain", after=len(expected))) == []
    with pytest.raises(InputError, match="the newest is"):
        next(client.watch("plain", after=len(expected) + 1))
    with pytest.raises(RunError, match="nobody"):
        next(client.watch("nobody"))


def test_changes_of_a_front_lead_to_the_front(idle: Served, client: Any) -> None:
    name = f"growing-{type(client).__name__.lower()}"
    made = log(400, is_reported=False)
    directory = logged(idle, name, made[:300])
    rest = threading.Timer(1.0, lambda: idle.write_log(name, body_of(name), made[300:]))
    rest.start()
    members: set[int] = set()
    volume, places = None, []
    for change in client.watch_front(name):
        assert members.isdisjoint(each.number for each in change.added)
        assert members.issuperset(change.removed)
        members -= set(change.removed)
        members |= {each.number for each in change.added}
        volume = change.hypervolume
        places.append(change.sequence)
    rest.join()
    run = Run.open(directory)
    assert members == {each.number for each in run.front().members}
    assert volume == run.front().hypervolume()
    assert places == sorted(set(places))
    assert places[0] <= 300 < places[-1]


@pytest.mark.parametrize("kind", CLIENTS)
def test_watching_goes_on_where_a_killed_server_comes_back(
    serve: Callable[..., Served], kind: Any
) -> None:
    """Nothing is lost, nothing comes twice, while the server is killed twice."""
    served = serve("--max-jobs", "0")
    made = log(120)
    directory = logged(served, "story", made[:50])
    seen: list[Event] = []

    def disturb() -> None:
        for start in (50, 120):
            wait_for(seen, start)
            served.kill()
            served.write_log("story", body_of("story"), made[start : start + 70])
            time.sleep(0.5)
            served.start()
        wait_for(seen, 190)
        served.write_log("story", body_of("story"), made[190:])

    trouble = threading.Thread(target=disturb)
    trouble.start()
    with kind(served.target, patience=Patience(first_pause_s=0.05)) as client:
        for event in client.watch("story"):
            seen.append(event)
    trouble.join()
    assert seen == events_in(directory)
    assert len(seen) == len(made)


def wait_for(seen: list[Event], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(seen) < count:
        assert time.monotonic() < deadline, f"{len(seen)} of {count} events came"
        time.sleep(0.02)
