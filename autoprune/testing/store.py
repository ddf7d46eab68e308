"""The suite that every store passes, for ours and for yours.

class TestMine(StoreContract):
    def make_store(self, tmp_path):
        return Mine(tmp_path / "log")
"""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from autoprune.contracts.store import Entry, Event, EventKind, Store
from autoprune.errors import FencedError, JobHeldError, StoreError
from autoprune.testing.store_outline import OutlineContract

_PATIENCE_S = 60.0  # only a store that blocks, or a child that died, takes this long
_LONG_S = 600.0  # a lease that outlives its test
_ENDS = [EventKind.COMPLETED, EventKind.FAILED, EventKind.INFEASIBLE, EventKind.STOPPED]


class StoreContract(OutlineContract):
    """Inherit, and override `make_store`; the class must be importable by its module's name."""

    def test_events_come_back_as_they_were_returned(self, tmp_path: Path) -> None:
        body = {"text": "ä", "list": [1, 2.5, None, True], "object": {"deep": {}}}
        entries = [
            Entry(EventKind.OPENED),
            Entry(EventKind.ASKED, trial=0, body=body),
            Entry(EventKind.COMPLETED, trial=0, attempt=3),
        ]
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            returned = list(store.append("a", entries))
            assert list(store.events("a")) == returned
        assert [each.kind for each in returned] == [each.kind for each in entries]
        assert [each.trial for each in returned] == [None, 0, 0]
        assert [each.attempt for each in returned] == [0, 0, 3]
        assert [each.body for each in returned] == [{}, body, {}]

    def test_seq_starts_at_one_and_has_no_gap(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            for count, start in ((1, 0), (3, 1), (0, 4), (2, 4)):
                store.append("a", _marks(count, start))
            assert _seqs(store, "a") == [1, 2, 3, 4, 5, 6]

    def test_order_is_kept(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            for start in range(0, 3000, 1500):
                store.append("a", _marks(1500, start))
            assert [each.trial for each in store.events("a")] == list(range(3000))

    def test_the_two_newest_snapshots_are_kept(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            store.create_job("b", {})
            assert list(store.snapshots("a")) == []
            for seq in (3, 10, 7):
                store.save_snapshot("a", seq, bytes([0, seq, 255]))
            store.save_snapshot("b", 1, b"other")
            store.save_snapshot("a", 10, b"again")
        with self.make_store(tmp_path) as store:
            assert list(store.snapshots("a")) == [(10, b"again"), (7, bytes([0, 7, 255]))]
            assert list(store.snapshots("b")) == [(1, b"other")]

    def test_a_snapshot_of_an_unknown_job_is_refused(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store, pytest.raises(StoreError, match="no job"):
            store.save_snapshot("nobody", 1, b"")

    def test_after_leaves_out_what_came_before(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            store.append("a", _marks(5))
            assert [each.seq for each in store.events("a", after=3)] == [4, 5]
            assert list(store.events("a", after=5)) == []

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
    def test_a_bad_entry_writes_nothing(self, tmp_path: Path, value: object) -> None:
        bad = Entry(EventKind.COMPLETED, trial=1, body={"deep": [{"value": value}]})
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            store.append("a", _marks(2))
            with pytest.raises(StoreError):
                store.append("a", [*_marks(2, 2), bad])
            assert _seqs(store, "a") == [1, 2]
            store.append("a", _marks(1, 2))
            assert _seqs(store, "a") == [1, 2, 3]

    def test_appends_survive_close_and_reopen(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            record = store.create_job("a", {"seed": 7})
            written = list(store.append("a", _marks(3)))
        with self.make_store(tmp_path) as store:
            assert list(store.jobs()) == [record]
            assert list(store.events("a")) == written
            store.append("a", _marks(1, 3))
            assert _seqs(store, "a") == [1, 2, 3, 4]

    def test_jobs_stand_apart_and_oldest_first(self, tmp_path: Path) -> None:
        spec = {"model": {"name": "x"}, "rungs": [{"images": 5}], "none": None}
        with self.make_store(tmp_path) as store:
            records = [store.create_job("b", spec), store.create_job("a", {})]
            written = list(store.append("a", _marks(1)))
            others = list(store.append("b", [Entry(EventKind.OPENED), *_marks(1)]))
            written += store.append("a", _marks(1, 1))
            assert list(store.jobs()) == records
            assert list(store.events("a")) == written
            assert list(store.events("b")) == others
            assert [each.seq for each in (*written, *others)] == [1, 2, 1, 2]
            assert json.loads(json.dumps(records[0].spec)) == spec

    def test_a_taken_name_is_refused_and_the_job_stays(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            record = store.create_job("a", {"seed": 1})
            store.append("a", _marks(2))
            with pytest.raises(StoreError, match="a"):
                store.create_job("a", {"seed": 2})
            assert list(store.jobs()) == [record]
            assert _seqs(store, "a") == [1, 2]

    def test_a_deleted_job_is_gone_and_others_stay(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            for name in ("a", "b"):
                store.create_job(name, {"job": name})
                store.append(name, _marks(3))
                store.save_snapshot(name, 1, b"state")
            store.delete_job("a")
            store.delete_job("a")
            assert [each.name for each in store.jobs()] == ["b"]
            assert _seqs(store, "b") == [1, 2, 3]
            assert store.snapshots("b") == [(1, b"state")]
            store.create_job("a", {})
            assert _seqs(store, "a") == []
            assert not store.snapshots("a")

    def test_an_unknown_job_is_refused(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("resnet", {})
            with pytest.raises(StoreError, match="resnet"):
                store.append("resnt", _marks(1))
            with pytest.raises(StoreError, match="resnet"):
                list(store.events("resnt"))
            with pytest.raises(StoreError, match="resnet"):
                store.outline("resnt", bodies=[])
            with pytest.raises(StoreError, match="resnet"):
                store.event("resnt", 1)

    def test_after_refuses_what_was_written_by_somebody_else_or_before(
        self, tmp_path: Path
    ) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            store.append("a", _marks(2), after=0)
            for after in (0, 1, 3):
                with pytest.raises(StoreError, match="newest event is 2"):
                    store.append("a", _marks(1, 2), after=after)
            store.append("a", _marks(1, 2), after=2)
            assert _seqs(store, "a") == [1, 2, 3]

    def test_what_a_trial_cannot_do_is_refused(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            for number, (log, refused) in enumerate(_impossible()):
                job, message = f"{number}", f"trial {refused.trial}"
                store.create_job(job, {})
                with pytest.raises(StoreError, match=message):
                    store.append(job, [*log, refused])
                assert _seqs(store, job) == []
                store.append(job, log)
                with pytest.raises(StoreError, match=message):
                    store.append(job, [Entry(EventKind.OPENED), refused])
                assert _seqs(store, job) == list(range(1, len(log) + 1))

    def test_a_whole_life_is_written_at_once_or_step_by_step(self, tmp_path: Path) -> None:
        kinds = ["ASKED", "RETRIED", "REPEATED", "RETRIED", "COMPLETED", "REPEATED"]
        life = [Entry(EventKind(kind), trial=0) for kind in [*kinds, "REPORTED", "REPORTED"]]
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            store.append("a", life)
            store.create_job("b", {})
            for entry in life:
                store.append("b", [entry])
            assert _seqs(store, "a") == _seqs(store, "b") == list(range(1, 9))

    def test_each_acquire_raises_the_epoch(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            assert store.lease("a") is None
            assert store.acquire("a", "one", _LONG_S) == 1
            assert store.acquire("a", "one", _LONG_S) == 2  # its own owner, again
            lease = store.lease("a")
        assert lease is not None
        assert (lease.epoch, lease.owner) == (2, "one")
        assert _LONG_S - _PATIENCE_S < lease.remaining_s <= _LONG_S + 1.0

    def test_a_lease_keeps_others_from_acquiring(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store, self.make_store(tmp_path) as other:
            for job in ("a", "b"):
                store.create_job(job, {})
            epoch = store.acquire("a", "one", _LONG_S)
            with pytest.raises(JobHeldError, match="one"):
                other.acquire("a", "two", _LONG_S)
            with pytest.raises(JobHeldError, match="one"):
                other.acquire("a", "two", _LONG_S, instead_of=epoch - 1)
            assert other.acquire("b", "two", _LONG_S) == 1  # another job
            store.append("a", _marks(1), epoch=epoch)
            assert other.acquire("a", "two", _LONG_S, instead_of=epoch) == epoch + 1

    def test_a_released_job_is_free_and_an_old_lease_runs_out(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            store.release("a", store.acquire("a", "one", _LONG_S))
            lease = store.lease("a")
            assert lease is not None
            assert lease.remaining_s <= 0.0
            assert store.acquire("a", "two", 0.05) == 2
            assert _acquired_in_the_end(store, "a", "three") == 3

    def test_who_lets_the_lease_run_out_may_write_until_another_acquires(
        self, tmp_path: Path
    ) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            epoch = store.acquire("a", "one", -1.0)
            store.append("a", _marks(1), epoch=epoch)
            store.renew("a", epoch, _LONG_S)
            with pytest.raises(JobHeldError):
                store.acquire("a", "two", _LONG_S)

    @pytest.mark.parametrize("epoch", [0, 1, 3])
    def test_another_epoch_writes_nothing(self, tmp_path: Path, epoch: int) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            assert store.acquire("a", "one", _LONG_S) == 1
            store.append("a", _marks(1), epoch=1)
            assert store.acquire("a", "two", _LONG_S, instead_of=1) == 2
            for refused in (
                lambda: store.append("a", _marks(1, 1), epoch=epoch),
                lambda: store.append("a", [], epoch=epoch),
                lambda: store.save_snapshot("a", 1, b"old", epoch=epoch),
                lambda: store.renew("a", epoch, 2 * _LONG_S),
                lambda: store.release("a", epoch),
            ):
                with pytest.raises(FencedError, match="epoch 2"):
                    refused()
            lease = store.lease("a")
            assert lease is not None
            assert (lease.owner, lease.epoch) == ("two", 2)
            assert 0.0 < lease.remaining_s <= _LONG_S + 1.0
            assert _seqs(store, "a") == [1]
            assert list(store.snapshots("a")) == []
            store.append("a", _marks(1, 1), epoch=2)
            store.save_snapshot("a", 2, b"new", epoch=2)

    def test_a_job_never_acquired_is_in_epoch_zero(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            with pytest.raises(FencedError, match="epoch 0"):
                store.append("a", _marks(1), epoch=1)
            store.append("a", _marks(1))
            assert _seqs(store, "a") == [1]

    def test_leases_of_an_unknown_job_are_refused(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            for refused in (
                lambda: store.acquire("nobody", "one", _LONG_S),
                lambda: store.renew("nobody", 0, _LONG_S),
                lambda: store.release("nobody", 0),
                lambda: store.lease("nobody"),
            ):
                with pytest.raises(StoreError, match="no job"):
                    refused()

    def test_close_is_allowed_twice(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        store.close()
        store.close()

    def test_another_process_reads_while_this_one_writes(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            store.append("a", _marks(2))
            reader = context.Process(target=_read_in_steps, args=(self, tmp_path, there))
            reader.start()
            try:
                assert _receive(here) == 1  # the reader stands in the middle of its events
                store.append("a", _marks(2, 2))  # and does not block the writer
                here.send("go on")
                seqs = _receive(here)
                assert seqs in ([2], [2, 3, 4])
                here.send("again")
                assert _receive(here) == [1, 2, 3, 4]
            finally:
                here.close()
                reader.join(_PATIENCE_S)
            assert reader.exitcode == 0


def _marks(count: int, start: int = 0) -> list[Entry]:
    """Return entries told apart by their trial."""
    return [Entry(EventKind.ASKED, trial=start + index) for index in range(count)]


def _impossible() -> list[tuple[list[Entry], Entry]]:
    """Return logs of a trial, each with an entry that cannot follow."""
    asked = Entry(EventKind.ASKED, trial=0)
    never = [EventKind.RETRIED, EventKind.REPEATED, EventKind.REPORTED, *_ENDS]
    cases = [([], Entry(EventKind.ASKED, trial=1)), ([asked], asked)]
    cases += [([asked], Entry(kind, trial=1)) for kind in never]
    cases += [([asked], Entry(EventKind.ASKED, trial=2)), ([asked], Entry(EventKind.REPORTED, 0))]
    for end in _ENDS:
        refused = [EventKind.RETRIED, *_ENDS]
        if end is not EventKind.COMPLETED:
            refused.append(EventKind.REPORTED)
        cases += [([asked, Entry(end, trial=0)], Entry(kind, trial=0)) for kind in refused]
    return cases


def _acquired_in_the_end(store: Store, job: str, owner: str) -> int:
    """Acquire as soon as the lease that runs has run out."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return store.acquire(job, owner, _LONG_S)
        except JobHeldError:
            assert time.monotonic() < deadline, "the lease does not run out"
            time.sleep(0.01)


def _seqs(store: Store, job: str) -> list[int]:
    return [event.seq for event in store.events(job)]


def _receive(pipe: Connection) -> object:
    assert pipe.poll(_PATIENCE_S), "no answer from the other process"
    return pipe.recv()


def _read_in_steps(suite: StoreContract, path: Path, pipe: Connection) -> None:
    """Read one event, wait, read the rest, wait, read everything again."""
    with suite.make_store(path) as store:
        events = iter(store.events("a"))
        first: Event = next(events)
        pipe.send(first.seq)
        pipe.recv()
        pipe.send([event.seq for event in events])
        pipe.recv()
        pipe.send(_seqs(store, "a"))
