"""One controller at a time: the lease is renewed, released, waited for and taken from the dead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.controller import lease
from autoprune.controller.lease import held
from autoprune.errors import FencedError, JobHeldError
from autoprune.store import entries
from autoprune.store.sql import SqlStore
from cluster.owner import described, is_dead, this_process


@pytest.fixture
def store(tmp_path: Path) -> SqlStore:
    store = SqlStore(tmp_path / "store.sqlite")
    store.create_job("a", {})
    return store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    monkeypatch.setattr(lease, "_RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(lease, "_LOOK_EVERY_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_who_is_alive_is_not_robbed(store: SqlStore) -> None:
    with held(store, "a", "one") as epoch:
        with pytest.raises(JobHeldError), held(store, "a", "two"):
            pytest.fail("the job was acquired twice")
        store.append("a", [entries.opened()], epoch=epoch)


@pytest.mark.usefixtures("quick")
def test_a_lease_that_nobody_renews_is_waited_for(store: SqlStore) -> None:
    gone = store.acquire("a", "one", 0.6)
    with held(store, "a", "two") as epoch:
        assert epoch > gone
        with pytest.raises(FencedError):
            store.append("a", [entries.opened()], epoch=gone)


@pytest.mark.usefixtures("quick")
def test_a_job_is_free_at_once_after_its_release(store: SqlStore) -> None:
    with held(store, "a", "one"):
        pass
    found = store.lease("a")
    assert found is not None
    assert found.remaining_s <= 0
    with held(store, "a", "two"):
        pass


def test_the_dead_and_the_same_owner_are_replaced_at_once(store: SqlStore) -> None:
    first = store.acquire("a", "one", 3600.0)
    taken = held(store, "a", "two", instead_of=first)
    anew = held(store, "a", "two")  # an actor that was started anew
    with taken, anew as epoch:
        store.append("a", [entries.opened()], epoch=epoch)


@pytest.mark.usefixtures("quick")
def test_who_was_replaced_stops_renewing_and_leaves_the_other_alone(store: SqlStore) -> None:
    with held(store, "a", "one"):
        current = store.lease("a")
        assert current is not None
        epoch = store.acquire("a", "two", 3600.0, instead_of=current.epoch)
    found = store.lease("a")
    assert found is not None
    assert (found.owner, found.epoch) == ("two", epoch)
    assert found.remaining_s > 3000


def test_a_process_of_this_machine_is_known_to_be_dead_or_alive() -> None:
    mine = this_process()
    assert not is_dead(mine)
    script = "from cluster.owner import this_process; print(this_process())"
    command = [sys.executable, "-c", script]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert theirs != mine
    assert is_dead(theirs)
    assert described(theirs).startswith("process ")


@pytest.mark.parametrize(
    "owner", ["actor of a cluster", "[]", '["elsewhere", "boot pid", 1, 2.0]', "{}"]
)
def test_of_others_nothing_is_claimed(owner: str) -> None:
    assert not is_dead(owner)
    assert described(owner)
