"""The derived trial table against the fold of the log, however the log was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.contracts.store import Entry, Event
from autoprune.store.derived import TrialRows
from autoprune.store.history import History
from autoprune.store.sql import SqlStore
from tests.unit.test_history_fold import logs


@given(logs(), st.data())
@settings(deadline=None, max_examples=40)
def test_the_trial_table_agrees_with_the_fold_for_every_way_to_append(
    events: list[Event], data: st.DataObject
) -> None:
    log = [Entry(each.kind, each.trial, each.attempt, each.body) for each in events]
    with tempfile.TemporaryDirectory() as directory, SqlStore(Path(directory) / "a.db") as store:
        store.create_job("a", {})
        while log:
            count = data.draw(st.integers(1, len(log)))
            store.append("a", log[:count])
            log = log[count:]
        rows, fold, last = store.trials("a"), TrialRows(), dict[int, int]()
        for event in store.events("a"):
            fold.follow(event)
            if event.trial is not None and event.kind != "REPEATED":
                last[event.trial] = event.seq
    trials = History.replay(events).trials.values()
    assert rows == list(fold.rows.values())
    assert [row["number"] for row in rows] == [trial.number for trial in trials]
    assert [row["state"] for row in rows] == [trial.state for trial in trials]
    assert [row["rung"] for row in rows] == [trial.rung for trial in trials]
    assert [row["searcher"] for row in rows] == [trial.searcher for trial in trials]
    assert {row["number"]: row["seq"] for row in rows} == last
