"""The doctor finds each kind of damage, says what to do, and changes nothing."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoprune import doctor
from autoprune.artifacts import write_artifact
from autoprune.cli.main import app
from autoprune.contracts.store import Entry
from autoprune.contracts.training import TrainingProgress
from autoprune.doctor import Finding, Health, examine_installation, examine_run
from autoprune.errors import PluginError, RunError
from autoprune.policy import Policy
from autoprune.run import FILES_NAME
from autoprune.store import entries
from autoprune.store.location import STORE_NAME, place_store
from autoprune.store.snapshot import pack
from autoprune.store.sql import SqlStore
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement
from tests.postgres import shared_server

POLICY = Policy.from_keep_ratios({"conv1": 0.5})
WEIGHTS, CHECKPOINT = b"weights of a trial", b"checkpoint of a searcher"


def log(weights: str, checkpoint: str) -> list[Entry]:
    crash = Failure(FailureKind.CRASH, "signal 11")
    measured = Evaluation({"error": Measurement(0.1)})
    made = [entries.opened()]
    for number in range(3):
        made.append(entries.asked(number, POLICY, "tpe", rung=0, parent=None, batch=0))
    return [
        *made,
        entries.completed(0, measured, attempt=1),
        entries.retried(1, crash, attempt=1),
        entries.failed(1, crash, attempt=2),
        entries.trained(TrainingProgress(1, 2, "gone")),
        entries.trained(TrainingProgress(2, 2, checkpoint, superseded="gone")),
        entries.repeated(0, POLICY, "nsga2", batch=1),
        entries.reported(0, Evaluation(measured.measurements, weights=weights)),
    ]


def made_run(directory: Path, url: str | None = None) -> Path:
    directory.mkdir()
    files = directory / FILES_NAME
    files.mkdir()
    made = log(*(write_artifact(files, each, ".bin") for each in (WEIGHTS, CHECKPOINT)))
    with place_store(directory, url, "a") as store:
        store.create_job("a", {})
        store.append("a", made[:-3])
        store.save_snapshot("a", 8, pack({"x": 1}))
        store.append("a", made[-3:])
        store.save_snapshot("a", 11, pack({"x": 2}))
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the directory of a sound run."""
    return made_run(tmp_path / "run")


def damage(run: Path, *statements: str) -> None:
    with closing(sqlite3.connect(run / STORE_NAME)) as raw, raw:
        for statement in statements:
            raw.execute(statement)


def faults(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(each.name, str(each.health)) for each in findings if each.health is not Health.OK]


def test_a_sound_run_is_found_sound_and_left_alone(run: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {each: each.read_bytes() for each in run.rglob("*") if each.is_file()}

    before = content()
    findings = examine_run(run)
    assert faults(findings) == []
    said = {each.name: each.message for each in findings}
    assert said["log"] == "11 events, 3 trials"
    assert said["trial table"] == "3 rows"
    assert said["artifact table"] == said["files"].replace("named by the log", "rows") == "2 rows"
    assert said["snapshots"] == "of events 11, 8"
    assert said["lease"] == "no controller drives the job"
    after = content()
    assert {path: after[path] for path in before} == before


def test_a_run_in_postgresql_is_examined_alike(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", shared_server().new_database())
    assert faults(examine_run(run)) == []
    assert {each.name for each in examine_run(run)} > {"store", "log", "trial table", "files"}


@pytest.mark.parametrize(
    ("statement", "expected", "words"),
    [
        ("DELETE FROM event WHERE seq = 4", ["log"], "a gap"),
        ("UPDATE event SET body = '{}' WHERE seq = 5", ["log"], "event 5 cannot follow"),
        ("UPDATE event SET body = '{' WHERE seq = 5", ["store"], "event 5.*unreadable"),
        ("UPDATE trial SET state = 'FAILED' WHERE number = 0", ["trial table"], r"other: 0\)"),
        ("UPDATE trial SET attempts = 7 WHERE number = 1", ["trial table"], r"other: 1\)"),
        ("DELETE FROM trial WHERE number = 2", ["trial table"], r"other: 2\)"),
        ("INSERT INTO trial SELECT job, 3, searcher, rung, parent, state, attempts, seq "
         "FROM trial WHERE number = 2", ["trial table"], "more rows"),
        ("DELETE FROM artifact WHERE kind = 'weights'", ["artifact table"], r"other: \w{64}.bin"),
        ("UPDATE artifact SET seq = 1", ["artifact table"], "restore a backup"),
        ("UPDATE snapshot SET seq = 12 WHERE seq = 11", ["snapshots"], "the log ends at 11"),
        ("UPDATE autoprune_version SET version_num = '9999'", ["store"], "newer autoprune"),
    ],
)  # fmt: skip
def test_what_was_altered_in_the_store_is_found(
    run: Path, statement: str, expected: list[str], words: str
) -> None:
    damage(run, statement)
    findings = examine_run(run)
    assert faults(findings) == [(name, "broken") for name in expected]
    (broken,) = [each for each in findings if each.health is Health.BROKEN]
    assert re.search(words, broken.message), broken.message


def test_a_torn_database_file_is_found(run: Path) -> None:
    with SqlStore(run / STORE_NAME) as store:
        store.append("a", [Entry(entries.opened().kind, body={"x": "y" * 200_000})])
    path = run / STORE_NAME
    content = bytearray(path.read_bytes())
    content[-6 * 4096 : -4096] = bytes(5 * 4096)
    path.write_bytes(bytes(content))
    assert faults(examine_run(run)) != []
    assert all(health == "broken" for _, health in faults(examine_run(run)))


def test_a_damaged_snapshot_is_a_warning(run: Path) -> None:
    damage(run, "UPDATE snapshot SET body = x'00' WHERE seq = 11")
    assert faults(examine_run(run)) == [("snapshots", "warning")]


@pytest.mark.parametrize("content", [WEIGHTS, CHECKPOINT])
def test_a_lost_or_altered_file_is_found(run: Path, content: bytes) -> None:
    files = run / FILES_NAME
    name = write_artifact(files, content, ".bin")
    (files / name).write_bytes(b"else")
    assert faults(examine_run(run)) == [("files", "broken")]
    (files / name).unlink()
    (broken,) = [each for each in examine_run(run) if each.health is Health.BROKEN]
    assert name in broken.message
    assert "backup" in broken.message


def test_files_that_nobody_names_are_a_warning(run: Path) -> None:
    name = write_artifact(run / FILES_NAME, b"never committed", ".bin")
    (run / FILES_NAME / f".{name}.part").write_bytes(b"half")
    findings = [each for each in examine_run(run) if each.health is not Health.OK]
    assert [each.health for each in findings] == [Health.WARNING] * 2
    assert findings[0].message.startswith(f"1 unfinished (.{name}.part)")
    assert findings[1].message.startswith(f"1 not named by the log ({name})")


def test_who_drives_the_job_is_said(run: Path) -> None:
    with SqlStore(run / STORE_NAME) as store:
        store.acquire("a", "host-a/17", 600.0)
    (lease,) = [each for each in examine_run(run) if each.name == "lease"]
    assert "host-a/17 drives the job (epoch 1" in lease.message


def test_events_that_arrive_meanwhile_are_no_damage(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, late = SqlStore.trials, [3, 4, 5]
    with SqlStore(run / STORE_NAME) as writer:

        def after_an_append(view: SqlStore, job: str) -> Sequence[object]:
            if late:
                number = late.pop(0)
                ask = entries.asked(number, POLICY, "tpe", rung=0, parent=None, batch=9)
                writer.append("a", [ask])
            return read(view, job)

        monkeypatch.setattr(SqlStore, "trials", after_an_append)
        assert faults(examine_run(run)) == []
    assert not late


def test_what_is_no_run_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        examine_run(tmp_path)


def test_the_command_prints_findings_and_its_exit_code_tells(run: Path) -> None:
    sound = CliRunner().invoke(app, ["doctor", str(run), "--format", "json"])
    assert sound.exit_code == 0
    rows = json.loads(sound.stdout)
    assert {tuple(each) for each in rows} == {("name", "health", "message")}
    assert {each["health"] for each in rows} == {"ok"}
    damage(run, "DELETE FROM trial")
    broken = CliRunner().invoke(app, ["doctor", str(run)])
    assert broken.exit_code == 1
    assert "trial table" in broken.stdout


def test_this_installation_is_sound() -> None:
    findings = {each.name: each for each in examine_installation()}
    for name in ("python", "torch", "torchvision", "ray", "devices", "agents", "cluster"):
        assert findings[name].health is Health.OK, findings[name]
    assert "threads" in findings["devices"].message


def test_what_is_missing_or_shadowed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> object:
        raise ImportError(f"no {name}")

    def shelf_directory(package: str) -> Path:
        raise PluginError(f"{package} comes from elsewhere")

    monkeypatch.setattr(doctor.importlib, "import_module", import_module)
    monkeypatch.setattr(doctor, "shelf_directory", shelf_directory)
    findings = {each.name: each for each in examine_installation()}
    assert findings["torch"].health is findings["agents"].health is Health.BROKEN
    assert findings["psycopg"].health is Health.WARNING
    assert "pip install 'autoprune[postgres]'" in findings["psycopg"].message
    assert "comes from elsewhere" in findings["cluster"].message
