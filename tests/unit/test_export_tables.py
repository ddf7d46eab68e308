"""Tables of all trials: every cell comes back, whatever is in it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.errors import ExportError
from autoprune.exporters import _trial_rows
from autoprune.exporters._trial_rows import Table, table_of
from autoprune.exporters.csv_exporter import Csv
from autoprune.exporters.json_exporter import Json
from autoprune.exporters.parquet_exporter import Parquet
from autoprune.graph.block import Block
from autoprune.graph.cost import CostTable
from autoprune.graph.group import GroupTable
from autoprune.graph.network import NetworkGraph
from autoprune.policy import Policy
from autoprune.run import Run
from autoprune.seal import check_seal, open_seal
from autoprune.store import entries
from autoprune.testing import ExporterContract
from autoprune.trial import Failure, FailureKind
from tests.hard_run import MESSAGE, ODD, hard_run
from tests.made_up_run import PROBLEM, job, log, stored

KINDS = [Csv, Json, Parquet]


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return hard_run(tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return stored(tmp_path_factory.mktemp("run"), job(rungs=2), log(30, rungs=2))


class _TablesContract(ExporterContract):
    @pytest.fixture(autouse=True)
    def _use(self, hard: Run) -> None:
        self._run = hard

    def source(self) -> Chosen:
        return Chosen(self._run, self._run.trial("1"))


class TestCsv(_TablesContract):
    def make(self) -> RunExporter:
        return Csv()


class TestJson(_TablesContract):
    def make(self) -> RunExporter:
        return Json()


class TestParquet(_TablesContract):
    def make(self) -> RunExporter:
        pytest.importorskip("pyarrow")
        return Parquet()


del _TablesContract


def records(run: Run, pick: str, directory: Path) -> list[dict[str, str]]:
    path = directory / "trials.csv"
    Csv().export(Chosen(run, run.trial(pick)), path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_trial_is_there_as_the_log_has_it(made_up: Run, tmp_path: Path) -> None:
    rows = records(made_up, "knee", tmp_path)
    assert len(rows) == len(made_up.trials())
    members = {each.number for each in made_up.front().members}
    for row, trial in zip(rows, made_up.trials(), strict=True):
        assert row["job"] == "digits"
        assert int(row["trial"]) == trial.number
        assert row["state"] == trial.state
        assert row["rung"] == str(trial.rung)
        assert row["parent"] == ("" if trial.parent is None else str(trial.parent))
        assert row["policy_sha256"] == trial.policy.sha256
        assert json.loads(row["policy"]) == trial.policy.to_json()
        assert row["on_front"] == str(trial.number in members).lower()
        for split, evaluation in (("search", trial.evaluation), ("report", trial.report)):
            if evaluation is None:
                assert row[f"{split}.error.value"] == ""
                continue
            for name, measured in evaluation.measurements.items():
                for part in ("value", "low", "high"):
                    wanted = getattr(measured, part)
                    found = row[f"{split}.{name}.{part}"]
                    assert (float(found) if found else None) == wanted
        costs = made_up.graph.costs.costs(trial.policy)
        assert int(row["costs.macs"]) == costs.macs
        for group in PROBLEM.groups.prunable:
            assert float(row[f"keep_ratio.{group.name}"]) == trial.policy.keep_ratio(group.name)
    assert [row["trial"] for row in rows if row["picked"] == "true"] == [
        str(made_up.trial("knee").number)
    ]
    states = {row["state"] for row in rows}
    assert states == {"COMPLETED", "FAILED", "INFEASIBLE"}
    failed = next(row for row in rows if row["state"] == "FAILED")
    assert (failed["failure_kind"], failed["failure"]) == ("CRASH", "CRASH: signal 11")


def test_names_and_messages_survive(hard: Run, tmp_path: Path) -> None:
    dense, one, failed, infeasible, _, waiting = records(hard, "1", tmp_path)
    assert failed["failure"] == f"CRASH: {MESSAGE}".replace("\udc80", "\\udc80")
    assert float(one[f"keep_ratio.{ODD}"]) == 0.5
    assert float(one["keep_ratio.conv2"]) == 1.0
    assert (one["bits.conv1"], one["activation_bits.conv1"]) == ("8", "8")
    assert (one["bits.conv4"], one["bits.conv2"], dense["bits.conv2"]) == ("4", "", "32")
    assert json.loads(one["dropped"]) == ["middle"]
    assert json.loads(one["deployment.notes"]) == [f"{ODD}: runs in float"]
    assert one["deployment.file_bytes"] == "123456"
    assert (one["search.loss.value"], one["search.loss.high"]) == ("", "")  # NaN, infinity
    assert json.loads(infeasible["violations"]) == {"macs <= 1": 3.0}
    assert (waiting["state"], waiting["seconds"]) == ("WAITING", "")


def test_of_groups_within_dropped_blocks_nothing_is_left(tmp_path: Path) -> None:
    block = Block("middle", ("conv2", "conv3"), "conv3", (0, 0))
    groups = GroupTable(PROBLEM.groups.groups, [block], PROBLEM.groups.layers)
    graph = NetworkGraph(groups, CostTable(PROBLEM.costs.rows, groups))
    policy = groups.canonical(Policy(dropped=frozenset({"middle"})))
    made = [*log(0)[:3], entries.asked(1, policy, "tpe", rung=0, parent=None, batch=0)]
    (tmp_path / "run").mkdir()
    _, one = records(stored(tmp_path / "run", job(), made, graph), "1", tmp_path)
    gone = groups.vanishing(policy)
    assert gone
    for group in groups.prunable:
        assert float(one[f"keep_ratio.{group.name}"]) == (0.0 if group.name in gone else 1.0)
    assert one["bits.conv2"] == ""


def test_no_cell_can_be_a_formula(hard: Run) -> None:
    table = table_of(Chosen(hard, hard.trial("1")))
    texts = [x for row in table.rows for x in row if isinstance(x, str)]
    for text in (*texts, *(each.name for each in table.columns)):
        assert text[0] not in "=+-@\t\r", text


def test_columns_follow_from_the_run_alone(hard: Run) -> None:
    one, other = (table_of(Chosen(hard, hard.trial(x))) for x in "14")
    assert one.columns == other.columns
    names = [each.name for each in one.columns]
    assert len(set(names)) == len(names)
    assert names[:4] == ["job", "trial", "picked", "on_front"]
    assert [x for x in names if x.startswith("search.")][:3] == [
        "search.error.value",
        "search.error.low",
        "search.error.high",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_log_gives_the_same_file(
    kind: type[RunExporter], hard: Run, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{x}{kind.suffix}" for x in "ab"]
    for path in paths:
        kind().export(Chosen(hard, hard.trial("1")), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_document_has_everything(hard: Run, tmp_path: Path) -> None:
    chosen = Chosen(hard, hard.trial("1"))
    Json().export(chosen, tmp_path / "a.json")
    body = json.loads((tmp_path / "a.json").read_text())
    assert body["provenance"]["format"] == "json"
    assert (body["picked"], body["front"]) == (1, [0, 4, 1])
    assert body["spec"] == hard.job.to_json()
    shown = hard.show_json(hard.trial("4"))
    for key, value in body["trials"][4].items():
        if key not in ("teacher", "evaluation", "report"):
            assert value == json.loads(json.dumps(shown[key])), key
    assert body["trials"][4]["report"] == hard.trials()[4].report.to_json()  # type: ignore[union-attr]
    assert body["trials"][2]["failure"]["message"] == MESSAGE
    assert body["trials"][1]["evaluation"]["measurements"]["loss"] == [None, None, None]


def test_a_message_that_looks_like_a_seal_is_none(hard: Run, tmp_path: Path) -> None:
    said = Failure(FailureKind.CRASH, f"no: {open_seal()}")
    trials = [replace(each, failure=said) for each in hard.trials()]
    with patch.object(hard, "trials", lambda: trials):
        Json().export(Chosen(hard, trials[1]), tmp_path / "a.json")
    body = json.loads((tmp_path / "a.json").read_text())
    assert body["trials"][0]["failure"]["message"] == said.message


@pytest.mark.parametrize("kind", [Json, Parquet])
def test_a_changed_file_is_noticed(kind: type[RunExporter], hard: Run, tmp_path: Path) -> None:
    path = tmp_path / f"a{kind.suffix}"
    kind().export(Chosen(hard, hard.trial("1")), path)
    check_seal(path)
    whole = path.read_bytes()
    place = len(whole) // 3
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ExportError, match="has changed"):
        kind().check(Chosen(hard, hard.trial("1")), path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_cell_is_not_kept(kind: type[RunExporter], hard: Run, tmp_path: Path) -> None:
    chosen = Chosen(hard, hard.trial("1"))
    other = Chosen(hard, hard.trial("4"))  # another trial is picked: one cell
    exporter = kind()
    write = exporter.write
    with (
        patch.object(exporter, "write", lambda _, path: write(other, path)),
        pytest.raises(ExportError, match="nothing was kept"),
    ):
        exporter.export(chosen, tmp_path / f"a{kind.suffix}")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_missing_are_noticed(hard: Run) -> None:
    table = table_of(Chosen(hard, hard.trial("1")))
    names = [each.name for each in table.columns]
    _trial_rows.require_same(table, names, table.rows)
    for columns, rows in ((names[1:], table.rows), (names, table.rows[1:])):
        with pytest.raises(ExportError, match="were to be written"):
            _trial_rows.require_same(table, columns, rows)
    text = Table(table.columns, tuple(tuple(map(str, row)) for row in table.rows))
    with pytest.raises(ExportError, match="row 0, trial: '0' was read back instead of 0"):
        _trial_rows.require_same(table, names, text.rows)


def test_long_cells_come_back(hard: Run, tmp_path: Path) -> None:
    usual = csv.field_size_limit()
    said = Failure(FailureKind.CRASH, "x" * (2 * usual))
    trials = [replace(each, failure=said) for each in hard.trials()]
    with patch.object(hard, "trials", lambda: trials):
        Csv().export(Chosen(hard, trials[1]), tmp_path / "a.csv")
    assert csv.field_size_limit() == usual


def test_columns_of_parquet_have_types_and_the_file_says_where_it_comes_from(
    hard: Run, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    Parquet().export(Chosen(hard, hard.trial("1")), tmp_path / "a.parquet")
    schema = parquet.read_schema(tmp_path / "a.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["trial"] == types["bits.conv1"] == "int64"
    assert types["search.error.value"] == types[f"keep_ratio.{ODD}"] == "double"
    assert (types["picked"], types["failure"]) == ("bool", "string")
    stamp = json.loads(parquet.read_metadata(tmp_path / "a.parquet").metadata[b"autoprune"])
    assert (stamp["format"], stamp["trial"]) == ("parquet", 1)


def test_without_the_extra_it_is_named(
    hard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"install the extra: pip install 'autoprune\[tables\]'"):
        Parquet().export(Chosen(hard, hard.trial("1")), tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "name"), [("csv", "a"), ("json", "a"), ("parquet", "a"), ("card", "a.md")]
)
def test_the_command_line_loads_no_torch(to: str, name: str, tmp_path: Path) -> None:
    stored(tmp_path, job(), log(5))
    out = tmp_path / name
    look = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from autoprune.cli.main import app\n"
        f"given = ['export', {str(tmp_path)!r}, 'knee', '--to', {to!r}, '--out', {str(out)!r}]\n"
        "done = CliRunner().invoke(app, given, catch_exceptions=False)\n"
        "modules = sorted({'torch', 'ray', 'matplotlib'} & set(sys.modules))\n"
        "print(json.dumps([done.exit_code, modules, done.output]))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    code, modules, said = json.loads(done.stdout)
    assert (code, modules) == (0, [])
    assert "read back: equal" in said
    assert str(out) in said


def test_tables_are_written_of_trials_that_never_ran(hard: Run, tmp_path: Path) -> None:
    for number in ("2", "3", "5"):
        written: Any = hard.export(hard.trial(number), "csv", tmp_path / f"{number}.csv")
        assert written.max_error == 0
        assert written.others == ()
