"""`autoprune compare` as a user types it, on the digits network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoprune import plugins
from autoprune.comparison.arena import Arena
from autoprune.errors import NonFiniteError
from tests.commands import command


@pytest.fixture
def path(digits_job: Mapping[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    rungs = [{"repair_images": 100, "images": 100}, {"finetune_steps": 2, "images": 50}]
    objectives = ["error", "loss", "macs", {"name": "latency", "seconds": 0.1}]
    raw = {**digits_job, "name": "small", "rungs": rungs, "objectives": objectives}
    file.write_text(yaml.safe_dump(raw))
    return file


def test_a_table_and_its_json(path: Path, tmp_path: Path) -> None:
    words = ("compare", str(path), "--criteria", "taylor,l1", "--seeds", "0,1", "--keep", "0.4,0.6")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for shown in (
        "0.4 of macs: every group keeps about",
        "0.6 of macs: every group keeps about",
        "dense: error",
        "loss",
        "best",
        "rung 0 trains nothing",
        "latency_ms: not measured here",
        "kept in runs/small-compare.json",
    ):
        assert shown in text
    assert done.stdout.index("0.4 of macs") < done.stdout.index("0.6 of macs")
    file = tmp_path / "runs" / "small-compare.json"
    kept = json.loads(file.read_text())["entries"]
    assert len(kept) == 12

    done = command(*words, "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(file.read_text())["entries"] == kept  # nothing was evaluated again
    body = json.loads(done.stdout)
    assert body["command"] == f"autoprune {' '.join(words)} --format json"
    assert body["criteria"] == ["taylor", "l1", "random"]
    assert body["unmeasured"] == ["latency_ms"]
    assert set(body["versions"]) == {"autoprune", "torch"}
    rows = [row for row in body["rows"] if row["share"] == 0.4]
    errors = [row["error"]["search"]["mean"] for row in rows]
    assert errors == sorted(errors)
    assert rows[0]["rank"] == 1
    for row in body["rows"]:
        values = [each["measured"]["report"]["error"][0] for each in row["seeds"]]
        assert row["error"]["report"]["mean"] == pytest.approx(sum(values) / 2)
        assert row["policy"]["recipe"]["criterion"] == row["criterion"]
    assert all(each["seconds"] > 0 for each in body["scorings"].values())


def require_applicable(row: Any, rung: str, job: Path, checkpoint: Path) -> None:
    """Take the policy of a row to its network by `apply`; it measures what the row says."""
    policy, out = job.with_name("policy.json"), job.with_name("x.safetensors")
    policy.write_text(json.dumps(row["policy"]))
    model = ("--model", "digits_cnn", "--checkpoint", str(checkpoint), "--data", str(job))
    words = ("--out", str(out), "--set", rung, "--format", "json")
    done = command("apply", str(policy), *model, *words)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measurements"]["error"]
    assert measured == row["seeds"][0]["measured"]["report"]["error"]


def test_recoveries_of_single_weights(path: Path, tmp_path: Path, digits_checkpoint: Path) -> None:
    words = ("compare", str(path), "--of", "weights", "--keep", "0.1", "--criteria", "l1")
    words += ("--recoveries", "finetune,rigl", "--seeds", "0", "--rung", "1")
    own = ("--set", "rungs.1.recovery={name: rigl, every: 1, until: 1.0}")
    done = command(*words, *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for shown in (
        "0.1 of weights: every kernel keeps 0.1 of its weights; 14.54 k params, 0.1033 of dense;",
        "of dense; 2.15 M macs",
        "criterion recovery error on V",
        "l1 finetune",
        "random rigl",
        "rigl has the rung's options (every, until), the other recoveries their defaults",
    ):
        assert shown in text
    for wrong in ("group", "trains nothing", "makes a difference", "left out"):
        assert wrong not in text

    done = command(*words, *own, "--format", "json", cwd=tmp_path)
    body = json.loads(done.stdout)
    assert (body["of"], body["pattern"], body["recoveries"]) == (
        "weights",
        None,
        ["finetune", "rigl"],
    )
    pairs = {(row["criterion"], row["recovery"]) for row in body["rows"]}
    assert pairs == {(x, y) for x in ("l1", "random") for y in ("finetune", "rigl")}
    (row,) = (x for x in body["rows"] if (x["criterion"], x["recovery"]) == ("l1", "rigl"))
    assert {each["keep_ratio"] for each in row["policy"]["layers"].values()} == {0.1}
    assert row["policy"]["groups"] == {}
    entries = json.loads((tmp_path / "runs" / "small-compare.json").read_text())["entries"]
    assert {(x["criterion"], x["recovery"]) for x in entries} == pairs

    rung = "rungs=[{finetune_steps: 2, images: 50, recovery: {name: rigl, every: 1, until: 1.0}}]"
    require_applicable(row, rung, path, digits_checkpoint)


def test_patterns_and_what_is_said_of_criteria(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = plugins.names

    def few(kind: str) -> dict[str, str]:
        allowed = {"wanda", "thinet", "taylor", "random"}
        return {x: y for x, y in names(kind).items() if kind != "criterion" or x in allowed}

    monkeypatch.setattr(plugins, "names", few)
    half = "tests.unit.test_comparison_weights:Half"
    words = ("--of", "weights", "--pattern", "2:4", "--keep", "0.5", "--seeds", "0")
    done = command("compare", str(path), "--criteria", f"all,{half}", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "0.5 of weights: every kernel keeps 2 of every 4 weights in a row" in text
    assert "recovery error" not in text
    assert "left out: taylor, thinet: it judges whole units, not single weights" in text
    assert f"{half} tells nothing of 1 of 7 kernels: the smallest weights leave there" in text
    assert text.count("wanda") == 1


def test_a_policy_of_a_row_can_be_applied(
    path: Path, tmp_path: Path, digits_checkpoint: Path
) -> None:
    words = ("--criteria", "l1", "--seeds", "0", "--keep", "0.5", "--format", "json")
    body = json.loads(command("compare", str(path), *words, cwd=tmp_path).stdout)
    (row,) = (row for row in body["rows"] if row["criterion"] == "l1")
    require_applicable(row, "rungs=[{repair_images: 100}]", path, digits_checkpoint)


def test_ctrl_c_keeps_what_finished(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, asked = Arena.outcome, []

    def until_the_third(self: Arena, *given: Any) -> Any:
        asked.append(given)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return outcome(self, *given)

    monkeypatch.setattr(Arena, "outcome", until_the_third)
    file = tmp_path / "x.json"
    words = ("--criteria", "l1,l2", "--seeds", "0,1", "--keep", "0.5", "--rung", "1")
    done = command("compare", str(path), *words, "--out", str(file))
    assert done.returncode == 130
    assert f"what finished is kept in {file}; the same command goes on" in done.stderr
    assert len(json.loads(file.read_text())["entries"]) == 2
    done = command("compare", str(path), *words, "--out", str(file))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(file.read_text())["entries"]) == 6
    assert len(asked) == 3 + 4


def test_failures_are_shown_and_only_nothing_but_failures_is_one(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {"l1"}
    rank_by = Arena.rank_by

    def ranked(self: Arena, criterion: str, table: Any) -> None:
        rank_by(self, criterion, table)

        def network(item: Any, dtype: Any) -> Any:
            if criterion in failing:
                raise NonFiniteError("loss is nan at [/step] 1")
            return network_of(item, dtype)

        network_of = type(self._evaluator).network.__get__(self._evaluator)
        self._evaluator.network = network  # type: ignore[method-assign]

    monkeypatch.setattr(Arena, "rank_by", ranked)
    words = ("compare", str(path), "--criteria", "l1", "--seeds", "0", "--keep", "0.5")
    done = command(*words, "--out", str(tmp_path / "x.json"))
    assert done.returncode == 0, done.stderr
    assert "l1 at 0.5, seed 0 failed: NONFINITE: loss is nan at [/step] 1" in done.stdout
    failing.add("random")
    done = command(*words, "--out", str(tmp_path / "y.json"))
    assert done.returncode == 1
    assert "no evaluation succeeded" in done.stderr
    assert "random at 0.5, seed 0 failed" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--criteria", "l1,tailor"), "did you mean 'taylor'"),
        (("--criteria", "l1,,l2"), "--criteria takes names of criteria"),
        (("--seeds", "0,1.5"), "--seeds takes whole numbers, as in 0,1,2; given: '0,1.5'"),
        (("--keep", "half"), "--keep takes shares, as in 0.5,0.3; given: 'half'"),
        (("--keep", "50"), "shares between 0 and 1, given: 50.0"),
        (("--keep", "0.0001"), "the lowest share that can be is"),
        (("--rung", "2"), "rung 2 does not exist: the job has 2, counted from 0"),
        (("--of", "flops"), "flops"),
        (("--set", "seeed=1"), "did you mean 'seed'"),
        (("--rung", "1", "--recoveries", "finetune,rigle"), "did you mean 'rigl'"),
        (("--rung", "1", "--recoveries", ",rigl"), "--recoveries takes names, as in finetune,rigl"),
        (("--recoveries", "finetune"), "rung 0 trains nothing"),
        (("--rung", "1", "--recoveries", "rigl"), "recoveries that can: finetune, gradual_units"),
        (("--rung", "1", "--of", "weights", "--recoveries", "growing"), "more than units leave"),
        (("--pattern", "4x1"), "say --of weights, or leave --pattern out"),
        (("--of", "weights", "--pattern", "2:4"), "of 2:4 the share 0.5 stays; given: 0.5, 0.3"),
        (("--of", "weights", "--pattern", "2x"), "such as 4x1; given: '2x'"),
        (("--of", "weights", "--criteria", "l1,thinet"), "criteria that can: grasp, l1"),
    ],
)
def test_bad_input_is_one_message_exit_2_and_nothing_written(
    words: tuple[str, ...], message: str, path: Path, tmp_path: Path
) -> None:
    done = command("compare", str(path), *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["small.yaml"]


def test_the_file_of_another_job_is_refused_and_left_as_it_is(path: Path, tmp_path: Path) -> None:
    words = ("compare", str(path), "--criteria", "l1", "--seeds", "0", "--keep", "0.5")
    assert command(*words, cwd=tmp_path).returncode == 0
    file = tmp_path / "runs" / "small-compare.json"
    before = file.read_bytes()
    done = command(*words, "--set", "rungs.0.repair_images=101", cwd=tmp_path)
    assert done.returncode == 2
    assert "rung.repair_images is 100 there and 101 here" in done.stderr
    assert "name another file with --out" in done.stderr
    assert file.read_bytes() == before
