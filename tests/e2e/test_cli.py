"""The command line as a user types it, on one finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

import autoprune
from autoprune.data.dataset import Dataset
from autoprune.data.digits import Digits
from autoprune.job.spec import SplitSpec
from tests.commands import command


@pytest.fixture(scope="module")
def run(digits_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli")
    job = {
        "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
        "data": {"name": "digits"},
        "objectives": ["error", "macs", {"name": "latency", "seconds": 0.1}],
        "searchers": ["nsga2"],
        "baselines": {"searchers": ["uniform"], "trials": 5},
        "rungs": [{"repair_images": 200}],
        "budget": {"trials": 12},
        "resources": {"workers": "serial", "device": "cpu"},
    }
    (directory / "job.yaml").write_text(yaml.safe_dump(job))
    done = command("search", str(directory / "job.yaml"), "--run", str(directory / "run"))
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert "uniform *" in " ".join(done.stdout.split())
    return directory / "run"


def as_json(*arguments: str) -> Any:
    done = command(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_front_prints_the_documented_json(run: Path) -> None:
    body = as_json("front", str(run))
    assert set(body) == {"job", "objectives", "hypervolume", "reference_point", "trials"}
    assert [x["name"] for x in body["objectives"]] == ["error", "macs", "latency_ms"]
    assert body["objectives"][0] == {"name": "error", "unit": "share", "goal": "min"}
    assert 0 < body["hypervolume"] < 1
    errors = [x["objectives"]["error"]["value"] for x in body["trials"]]
    assert errors == sorted(errors)
    for trial in body["trials"]:
        latency = trial["objectives"]["latency_ms"]
        assert latency["low"] <= latency["value"] <= latency["high"]
        assert trial["objectives"]["macs"]["low"] is None


def test_front_filters_sorts_and_picks(run: Path) -> None:
    everything = as_json("front", str(run), "--all", "--sort", "macs")["trials"]
    macs = [x["objectives"]["macs"]["value"] for x in everything]
    assert macs == sorted(macs)
    bound = macs[len(macs) // 2]
    kept = as_json("front", str(run), "--all", "--where", f"macs<={bound}")["trials"]
    assert {x["id"] for x in kept} == {
        x["id"] for x in everything if x["objectives"]["macs"]["value"] <= bound
    }
    best = as_json("front", str(run), "--pick", "best:macs")["trials"]
    front = as_json("front", str(run))["trials"]
    assert [x["objectives"]["macs"]["value"] for x in best] == [
        min(x["objectives"]["macs"]["value"] for x in front)
    ]
    assert len(as_json("front", str(run), "--top", "2")["trials"]) == 2
    assert as_json("front", str(run), "--where", "macs<=1")["trials"] == []


def test_the_exported_knee_is_the_network_that_front_and_show_print(
    run: Path, tmp_path: Path
) -> None:
    (knee,) = as_json("front", str(run), "--pick", "knee")["trials"]
    shown = as_json("show", str(run), "knee")
    assert shown["id"] == knee["id"]
    assert shown["costs"]["macs"] == knee["objectives"]["macs"]["value"]
    exported = as_json(
        "export", str(run), "knee", "--to", "onnx", "--out", str(tmp_path / "k.onnx")
    )
    assert exported["max_error"] <= 1e-4
    as_json("export", str(run), "knee", "--to", "torch", "--out", str(tmp_path / "k.safetensors"))

    card = tmp_path / "card.md"
    options = ("--set", "license=mit", "--set", "authors=The vision team")
    as_json("export", str(run), "knee", "--to", "card", "--out", str(card), *options)
    assert "license: mit" in card.read_text()
    assert "The vision team" in card.read_text()

    dataset = Dataset.from_raw(Digits().load(), SplitSpec())
    inputs = dataset.normalise(dataset.report.inputs).contiguous()
    session = onnxruntime.InferenceSession(str(tmp_path / "k.onnx"))
    (logits,) = session.run(None, {"input": inputs.numpy()})
    error = float(np.mean(logits.argmax(1) != dataset.report.labels.numpy()))
    assert error == pytest.approx(knee["objectives"]["error"]["value"], abs=0.002)

    network = autoprune.load(tmp_path / "k.safetensors")
    assert np.allclose(network(inputs).detach().numpy(), logits, atol=1e-4)
    parameters = sum(x.numel() for x in network.parameters())
    assert parameters == shown["costs"]["params"]


def test_export_refuses_what_it_cannot_do(run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.onnx"
    taken.write_text("mine")
    for arguments, message in (
        (("knee", "--to", "onnx", "--out", str(taken)), "exists already"),
        (("knee", "--to", "onx", "--out", str(tmp_path / "x")), "did you mean 'onnx'"),
        (("99999", "--to", "onnx", "--out", str(tmp_path / "x")), "does not exist"),
        (("elbow", "--to", "onnx", "--out", str(tmp_path / "x")), "knee"),
        (("knee", "--to", "onnx", "--out", str(tmp_path / "no" / "x")), "create it first"),
        (("knee", "--to", "card", "--out", str(tmp_path / "x"), "--set", "licence=mit"), "licence"),
        (("knee", "--to", "onnx", "--out", str(tmp_path / "x"), "--set", "opset=9"), "opset"),
    ):
        done = command("export", str(run), *arguments)
        assert done.returncode == 2
        assert message in done.stderr
    assert taken.read_text() == "mine"
    assert [x.name for x in tmp_path.iterdir()] == ["taken.onnx"]


def test_latency_is_shown_with_its_ratio_and_how_well_it_was_predicted(run: Path) -> None:
    shown = command("show", str(run), "knee").stdout
    assert "latency_ms: ratio" in shown
    assert "dense_ms" in shown
    report = (run / "report.html").read_text()
    assert "latency_ms was predicted" in report


def test_inspect_prints_the_documented_json(digits_checkpoint: Path, tmp_path: Path) -> None:
    job = {
        "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
        "data": {"name": "digits"},
        "constraints": ["macs <= 0.5 * dense", "error <= dense + 0.02", "params <= 3"],
        "resources": {"device": "cpu"},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    body = as_json("inspect", str(path))
    keys = {"model", "dense", "lowest", "groups", "constraints", "seconds_per_trial"}
    assert set(body) == keys
    assert [x["reachable"] for x in body["constraints"]] == [True, True, False]
    frozen = [x for x in body["groups"] if x["frozen"]]
    assert [x["name"] for x in frozen] == ["output"]
    assert "output" in frozen[0]["reason"]
    assert body["lowest"]["macs"] < 0.1 * body["dense"]["macs"]
    assert body["seconds_per_trial"] > 0


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["searcherss=[tpe]"], ["searcherss", "did you mean 'searchers'"]),
        (["budget.trials=many"], ["budget.trials", "many"]),
        (["seed=-3"], ["seed", "greater than or equal to 0"]),
        (["model.checkpoint=/no/such.pt"], ["model.checkpoint", "does not exist"]),
        (["model.name=digit_cnn"], ["model.name", "did you mean 'digits_cnn'"]),
        (["space.criterion=l3"], ["space.criterion", "l1, l2"]),
        (["data.name=digitz"], ["data.name", "did you mean 'digits'"]),
        (["searchers.0=nsga9", "seed=x"], ["2 problems", "searchers.0", "seed"]),
        (["space.keep_ratio=[0.5,0.1]"], ["keep_ratio"]),
        (["nonsense"], ["KEY.PATH=VALUE"]),
    ],
)
def test_bad_input_is_one_message_exit_2_and_nothing_written(
    overrides: list[str], messages: list[str], digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(dict(digits_job)))
    sets = [part for override in overrides for part in ("--set", override)]
    done = command("search", str(path), "--run", str(tmp_path / "run"), *sets)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_other_bad_input(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "variable.yaml").write_text("model: {name: '${AUTOPRUNE_NOT_SET}'}\n")
    for arguments, message in (
        (("search", str(tmp_path / "missing.yaml")), "cannot read"),
        (("search", str(tmp_path / "list.yaml")), "mapping"),
        (("search", str(tmp_path / "broken.yaml")), "not valid YAML"),
        (("search", str(tmp_path / "variable.yaml")), "AUTOPRUNE_NOT_SET"),
        (("front", str(tmp_path)), "is no run"),
        (("report", str(tmp_path)), "is no run"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_plugins_are_listed_with_a_summary() -> None:
    listing = as_json("plugins")
    assert {"nsga2", "random", "tpe", "uniform"} <= set(listing["searcher"])
    assert {"onnx", "torch"} <= set(listing["exporter"])
    assert all(summary for plugins in listing.values() for summary in plugins.values())
