"""The suite that every store passes, for ours and for yours.

class TestMine(StoreContract):
    def make_store(self, tmp_path):
        return Mine(tmp_path / "log")
"""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from autoprune.contracts.store import Entry, Event, EventKind, Store
from autoprune.errors import StoreError

_PATIENCE_S = 60.0  # only a store that blocks, or a child that died, takes this long


class StoreContract:
    """Inherit, and override `make_store`; the class must be importable by its module's name."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store; calls with the same path open the same one, in any process."""
        raise NotImplementedError

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
            for count in (1, 3, 0, 2):
                store.append("a", _marks(count))
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
                store.append("a", [*_marks(2), bad])
            assert _seqs(store, "a") == [1, 2]
            store.append("a", _marks(1))
            assert _seqs(store, "a") == [1, 2, 3]

    def test_appends_survive_close_and_reopen(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            record = store.create_job("a", {"seed": 7})
            written = list(store.append("a", _marks(3)))
        with self.make_store(tmp_path) as store:
            assert list(store.jobs()) == [record]
            assert list(store.events("a")) == written
            store.append("a", _marks(1))
            assert _seqs(store, "a") == [1, 2, 3, 4]

    def test_jobs_stand_apart_and_oldest_first(self, tmp_path: Path) -> None:
        spec = {"model": {"name": "x"}, "rungs": [{"images": 5}], "none": None}
        with self.make_store(tmp_path) as store:
            records = [store.create_job("b", spec), store.create_job("a", {})]
            store.append("a", _marks(1, 10))
            store.append("b", _marks(2, 20))
            store.append("a", _marks(1, 11))
            assert list(store.jobs()) == records
            assert [(each.seq, each.trial) for each in store.events("a")] == [(1, 10), (2, 11)]
            assert [(each.seq, each.trial) for each in store.events("b")] == [(1, 20), (2, 21)]
            assert json.loads(json.dumps(records[0].spec)) == spec

    def test_a_taken_name_is_refused_and_the_job_stays(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            record = store.create_job("a", {"seed": 1})
            store.append("a", _marks(2))
            with pytest.raises(StoreError, match="a"):
                store.create_job("a", {"seed": 2})
            assert list(store.jobs()) == [record]
            assert _seqs(store, "a") == [1, 2]

    def test_an_unknown_job_is_refused(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.create_job("resnet", {})
            with pytest.raises(StoreError, match="resnet"):
                store.append("resnt", _marks(1))
            with pytest.raises(StoreError, match="resnet"):
                list(store.events("resnt"))

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
                store.append("a", _marks(2))  # and does not block the writer
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
