"""The part of a store's suite that reads a log in outline, or single events of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.contracts.store import Entry, Event, EventKind, Origin, Outline, Store
from autoprune.errors import StoreError


class OutlineContract:
    """What `StoreContract` inherits; see there."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store; calls with the same path open the same one, in any process."""
        raise NotImplementedError

    @pytest.mark.parametrize(
        "bodies", [[], [EventKind.CLOSED], [EventKind.COMPLETED, EventKind.CLOSED], [*EventKind]]
    )
    def test_an_outline_leaves_out_the_bodies_of_other_kinds(
        self, tmp_path: Path, bodies: list[EventKind]
    ) -> None:
        log = [
            Entry(EventKind.OPENED),
            _asked(0, "random", 0, None),
            Entry(EventKind.RETRIED, trial=0, attempt=1, body={"failure": "crash"}),
            Entry(EventKind.COMPLETED, trial=0, attempt=2, body={"evaluation": {"error": [0.5]}}),
            _asked(1, "tpe", 2, 0),
            Entry(EventKind.REPEATED, trial=1, body={"searcher": "random"}),
            Entry(EventKind.CLOSED, body={"reason": "ä"}),
        ]
        with self.make_store(tmp_path) as store:
            store.create_job("a", {})
            events = store.append("a", log)
            outlines = list(store.outline("a", bodies=bodies))
            assert outlines == [_outline(each, bodies) for each in events]
            assert list(store.outline("a", 4, bodies=bodies)) == outlines[4:]
            assert list(store.outline("a", 7, bodies=bodies)) == []

    def test_an_outline_of_thousands_knows_where_each_trial_comes_from(
        self, tmp_path: Path
    ) -> None:
        names = ["random", "tpe", "amc"]
        asked = [_asked(n, names[n % 3], n % 5, n - 1 if n % 2 else None) for n in range(2500)]
        ended = [Entry(EventKind.STOPPED, trial=n) for n in range(2500)]
        with self.make_store(tmp_path) as store:
            for job in ("a", "b"):  # b's trials have the same numbers
                store.create_job(job, {})
            events = [*store.append("a", asked), *store.append("a", ended)]
            store.append("b", [_asked(n, "other", 9, None) for n in range(2500)])
            outlines = [_outline(each, []) for each in events]
            assert list(store.outline("a", 700, bodies=[])) == outlines[700:]

    def test_events_are_found_by_their_sequence_numbers(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            for job, count in (("a", 2500), ("b", 3000)):
                store.create_job(job, {})
                store.append(job, [Entry(EventKind.ASKED, trial=n) for n in range(count)])
            events = list(store.events("a"))
            assert store.event("a", 2) == events[1]
            wanted = [7, 1, 7, *range(2500, 0, -1)]
            assert list(store.events_at("a", wanted)) == [events[seq - 1] for seq in wanted]
            assert list(store.events_at("a", [])) == []
            for seq in (0, 2501):
                with pytest.raises(StoreError, match=f"no event {seq}"):
                    store.events_at("a", [1, seq])


def _asked(trial: int, searcher: str, rung: int, parent: int | None) -> Entry:
    body = {"policy": {}, "searcher": searcher, "rung": rung, "parent": parent}
    return Entry(EventKind.ASKED, trial, body=body)


def _outline(event: Event, bodies: list[EventKind]) -> Outline:
    """Return what is to be read of an event."""
    body, origin = event.body, None
    if event.kind is EventKind.ASKED:
        origin = Origin(body["searcher"], body["rung"], body["parent"])
    told = body if event.kind in bodies else None
    return Outline(event.seq, event.time, event.kind, event.trial, event.attempt, told, origin)
