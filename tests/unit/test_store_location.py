"""A run's store is found from its directory, in a file or in a database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.contracts.store import Entry, EventKind
from autoprune.errors import RunError, StoreError
from autoprune.store import location
from autoprune.store.location import (
    POINTER_NAME,
    STORE_NAME,
    has_store,
    open_store,
    place_store,
    record_of,
)
from tests.postgres import shared_server


def test_a_directory_holds_its_store_by_default(tmp_path: Path) -> None:
    assert not has_store(tmp_path)
    with place_store(tmp_path, None, "a") as store:
        record = store.create_job("a", {"seed": 1})
    assert has_store(tmp_path)
    assert (tmp_path / STORE_NAME).is_file()
    with open_store(tmp_path, read_only=True) as view:
        assert record_of(tmp_path, view) == record
        with pytest.raises(StoreError, match="reading only"):
            view.create_job("b", {})


def test_runs_share_a_database_and_each_finds_its_job(tmp_path: Path) -> None:
    url = shared_server().new_database()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with place_store(tmp_path / name, url, name) as store:
            store.create_job(name, {"name": name})
            store.append(name, [Entry(EventKind.OPENED)])
    assert [each.name for each in (tmp_path / "b").iterdir()] == [POINTER_NAME]
    assert has_store(tmp_path / "b")
    for name in ("a", "b"):
        with open_store(tmp_path / name) as store:
            assert record_of(tmp_path / name, store).spec == {"name": name}


def test_a_password_serves_in_this_process_and_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = shared_server().new_database()
    given = url.replace("tester@", "tester:secret@") + "?application_name=mine&password=secret"
    place_store(tmp_path, given, "a").close()
    pointer = json.loads((tmp_path / POINTER_NAME).read_text())
    assert pointer == {"url": f"{url}?application_name=mine", "job": "a"}
    targets: list[object] = []
    monkeypatch.setattr(location, "SqlStore", lambda url, **_: targets.append(url))
    open_store(tmp_path)
    assert targets == [given]


def test_a_directory_is_used_once(tmp_path: Path) -> None:
    place_store(tmp_path, None, "a").close()
    with pytest.raises(RunError, match="holds a run already"):
        place_store(tmp_path, None, "a")


def test_a_job_of_another_run_is_not_taken_over(tmp_path: Path) -> None:
    url = shared_server().new_database()
    with place_store(tmp_path, url, "a") as store:
        store.create_job("a", {})
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(StoreError, match="already has a job 'a'"):
        place_store(other, url, "a")
    assert not has_store(other)


def test_other_urls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="postgresql://"):
        place_store(tmp_path, "sqlite:///somewhere", "a")


def test_a_directory_without_a_store_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no store.sqlite and no store.json"):
        open_store(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '{"url": "postgresql://host/db"}', "7"])
def test_a_pointer_that_says_nothing_is_an_error_of_words(tmp_path: Path, text: str) -> None:
    (tmp_path / POINTER_NAME).write_text(text)
    with pytest.raises(RunError, match=r'store.json must be {"url"'):
        open_store(tmp_path)


def test_a_store_without_the_job_is_no_run(tmp_path: Path) -> None:
    place_store(tmp_path, None, "a").close()
    with open_store(tmp_path) as store, pytest.raises(RunError, match="holds no job"):
        record_of(tmp_path, store)
