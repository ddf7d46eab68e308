"""Exported files in other hands: verified from scratch, and their policies applied elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import autoprune
from autoprune.application import apply
from autoprune.contracts.exporter import NetworkExporter
from autoprune.errors import ExportError, InputError, JobError, ModelError, PolicyError
from autoprune.exported_file import identify, read_policy
from autoprune.exporters.onnx_exporter import Onnx
from autoprune.job.spec import Job
from autoprune.run import Run
from autoprune.seal import open_seal, seal
from autoprune.validation import validated
from autoprune.verification import verify
from tests.commands import command

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(digits_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("files")
    job = {
        "name": "digits",
        "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
        "data": {"name": "digits"},
        "objectives": ["error", "loss", "macs", {"name": "latency", "seconds": 0.1}],
        "searchers": ["nsga2"],
        "baselines": {"searchers": ["uniform"], "trials": 3},
        "rungs": [{"repair_images": 200, "repair": "both"}],
        "budget": {"trials": 6},
        "resources": {"workers": "serial", "device": "cpu"},
    }
    autoprune.search(validated(job), directory / "run")
    return Run.open(directory / "run")


@pytest.fixture(scope="module")
def files(run: Run) -> dict[str, Path]:
    """The same network in three formats."""
    directory = run.directory
    trial = run.trial("knee")
    suffixes = {"torch": ".safetensors", "onnx": ".onnx", "openvino": ".xml"}
    return {
        name: run.export(trial, name, directory / f"knee{suffix}").path
        for name, suffix in suffixes.items()
    }


@pytest.fixture(scope="module")
def other(digits_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint: the same network, its kernels moved a little."""
    generator = torch.Generator().manual_seed(1)
    state = {
        name: each + 0.02 * torch.randn(each.shape, generator=generator)
        if name.endswith("weight")
        else each
        for name, each in load_file(digits_checkpoint).items()
    }
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_file(state, path)
    return path


def job_for(given: Any, checkpoint: Path, model: str = "digits_cnn", **changes: Any) -> Job:
    spec = {"name": model, "checkpoint": str(checkpoint)}
    return validated({"name": "again", **given.job_defaults(), "model": spec, **changes})


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_a_file_is_what_it_claims(name: str, run: Run, files: dict[str, Path]) -> None:
    found = verify(files[name])
    assert found.format == name
    assert found.is_same_data
    assert found.agrees
    assert found.samples == 359
    rows = {row.metric: row for row in found.rows}
    assert rows["error"].agrees
    assert rows["loss"].agrees
    assert rows["macs"].measured is None
    trial = run.trial("knee")
    assert trial.report is not None
    assert rows["error"].claimed.value == trial.report.value("error")
    assert rows["error"].measured is not None
    assert rows["error"].measured.value == pytest.approx(rows["error"].claimed.value, abs=3e-3)
    assert rows["latency_ms"].agrees is None
    assert rows["latency_ms"].measured is not None
    assert 0 < rows["latency_ms"].measured.value < 1000


def test_a_file_that_claims_too_much_is_told(files: dict[str, Path], tmp_path: Path) -> None:
    """Its seal fits: whoever forged the claim sealed it again."""
    model = onnx.load(files["onnx"])
    entry = next(x for x in model.metadata_props if x.key == "autoprune")
    said = {**json.loads(entry.value), "seal": open_seal()}
    said["measurements"]["error"] = [0.0, 0.0, 0.01]
    entry.value = json.dumps(said)
    path = tmp_path / "forged.onnx"
    onnx.save_model(model, str(path))
    seal(path)
    found = verify(path)
    assert not found.agrees
    assert [row.metric for row in found.rows if row.agrees is False] == ["error"]
    done = command("verify", str(path))
    assert done.returncode == 1
    assert "DIFFERS" in done.stdout
    assert "is not what it claims to be: error" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measurements": {"macs": [1.0, None, None]}}, "follows from outputs"),
        ({"measurements": {}}, "it claims nothing"),
        ({"measurements": {"loss": [1.0, None, None]}, "objectives": [{"name": "error"}]}, "loss"),
        ({"measurements": {"error": "none"}}, "no claims that autoprune has written"),
        ({"measurements": {"error": [1.0, "low", None]}}, "no claims that autoprune has written"),
        ({"split": "__class__"}, "no claims that autoprune has written"),
        ({"samples": "all"}, "no claims that autoprune has written"),
    ],
)
def test_claims_that_cannot_be_judged_are_no_success(
    change: dict[str, Any], message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    model = onnx.load(files["onnx"])
    entry = next(x for x in model.metadata_props if x.key == "autoprune")
    entry.value = json.dumps({**json.loads(entry.value), "seal": open_seal(), **change})
    onnx.save_model(model, str(tmp_path / "forged.onnx"))
    seal(tmp_path / "forged.onnx")
    with pytest.raises(ExportError, match=message):
        verify(tmp_path / "forged.onnx")


def test_other_samples_are_compared_by_intervals(files: dict[str, Path]) -> None:
    data = {"name": "digits", "splits": {"seed": 7}}
    found = verify(files["onnx"], data)
    assert not found.is_same_data
    rows = {row.metric: row for row in found.rows}
    assert rows["error"].why.startswith("other samples")
    assert rows["error"].agrees is not None


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_data_that_do_not_fit_are_told(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not take samples of shape \[3, 32, 32\]"):
        verify(files[name], _small_images(tmp_path))


def test_what_holds_no_network_is_told(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.onnx").write_bytes(files["onnx"].read_bytes()[:-10])
    save_file({"a": torch.zeros(2)}, tmp_path / "c.safetensors")
    onnx.save_model(onnx.ModelProto(ir_version=10), str(tmp_path / "d.onnx"))
    for name, message in (
        ("a.txt", "another file ending"),
        ("b.onnx", "cannot read|has changed"),
        ("c.safetensors", "not written by autoprune"),
        ("d.onnx", "not written by autoprune"),
        ("e.onnx", "does not exist"),
    ):
        with pytest.raises(ExportError, match=message):
            identify(tmp_path / name)


def test_a_companion_that_is_gone_is_noticed(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "knee.xml").write_bytes(files["openvino"].read_bytes())
    with pytest.raises(ExportError, match=r"knee\.bin, a part of"):
        identify(tmp_path / "knee.xml")


def test_a_network_alone_claims_nothing(tmp_path: Path) -> None:
    from autoprune.contracts.exporter import Candidate

    candidate = Candidate(nn.Linear(3, 2).eval(), torch.randn(4, 3), {"job": "none"})
    exporter: NetworkExporter = Onnx()
    exporter.export(candidate, tmp_path / "alone.onnx")
    with pytest.raises(ExportError, match="claims nothing that could be verified"):
        verify(tmp_path / "alone.onnx")


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_a_policy_is_taken_to_another_checkpoint(
    name: str, run: Run, files: dict[str, Path], other: Path, tmp_path: Path
) -> None:
    given = read_policy(files[name])
    assert given.policy == run.trial("knee").policy
    done = apply(given, job_for(given, other), "torch", tmp_path / "again.safetensors")
    network = autoprune.load(done.exported.path)
    shapes = {key: each.shape for key, each in network.state_dict().items()}
    first = autoprune.load(files["torch"]).state_dict()
    assert shapes == {key: each.shape for key, each in first.items()}
    assert not torch.equal(first["stem.weight"], network.state_dict()["stem.weight"])
    found = verify(done.exported.path)
    assert found.agrees
    assert found.provenance["applied_from"]["trial"] == run.trial("knee").number
    assert done.measurements["macs"].value == run.trial("knee").evaluation.value("macs")  # type: ignore[union-attr]


def test_with_the_same_checkpoint_it_is_the_same_network(
    files: dict[str, Path], digits_checkpoint: Path, tmp_path: Path
) -> None:
    given = read_policy(files["torch"])
    apply(given, job_for(given, digits_checkpoint), "torch", tmp_path / "again.safetensors")
    one, two = autoprune.load(files["torch"]), autoprune.load(tmp_path / "again.safetensors")
    for name, each in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], each)


def test_json_of_show_is_a_policy_as_well(run: Run, other: Path, tmp_path: Path) -> None:
    trial = run.trial("knee")
    (tmp_path / "p.json").write_text(json.dumps(run.show_json(trial)))
    (tmp_path / "alone.json").write_text(json.dumps(trial.policy.to_json()))
    for name in ("p.json", "alone.json"):
        given = read_policy(tmp_path / name)
        assert given.policy == trial.policy
        assert given.job_defaults() == {}
        job = job_for(given, other, data={"name": "digits"}, rungs=[{"repair": "none"}])
        out = tmp_path / f"{name}.onnx"
        assert apply(given, job, "onnx", out).exported.path == out
    assert read_policy(tmp_path / "p.json").architecture == run.graph.groups.fingerprint


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_a_policy_is_read_without_torch(name: str, files: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from autoprune.exported_file import read_policy; "
        f"print(read_policy(Path({str(files[name])!r})).policy.sha256); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == read_policy(files[name]).policy.sha256


def test_a_policy_of_another_architecture_is_refused(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    given = read_policy(files["torch"])
    data, spec = _small_images(tmp_path), {"name": "cifar_resnet20"}
    job = validated({**given.job_defaults(), "model": spec, "data": data})
    with pytest.raises(PolicyError, match="another architecture: its groups have the fingerprint"):
        apply(given, job, "torch", tmp_path / "no.safetensors")
    (tmp_path / "p.json").write_text(
        json.dumps(
            {**run.show_json(run.trial("knee")), "architecture": "", "units": {"stem": [4, 99]}}
        )
    )
    given = read_policy(tmp_path / "p.json")
    checkpoint = run.job.model.checkpoint
    job = job_for(given, Path(str(checkpoint)), data={"name": "digits"})
    with pytest.raises(PolicyError, match="group 'stem' has 99 units"):
        apply(given, job, "torch", tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


def test_bad_input_of_apply_is_told(files: dict[str, Path], other: Path, tmp_path: Path) -> None:
    given = read_policy(files["torch"])
    wide = {**load_file(other), "hidden.weight": torch.zeros(3, 3)}
    save_file(wide, tmp_path / "wide.safetensors")
    out = tmp_path / "no.safetensors"
    with pytest.raises(ModelError, match="does not fit"):
        apply(given, job_for(given, tmp_path / "wide.safetensors"), "torch", out)
    with pytest.raises(ExportError, match="tells of a whole run"):
        apply(given, job_for(given, other), "csv", out)
    with pytest.raises(ExportError, match="exists already"):
        apply(given, job_for(given, other), "torch", files["torch"])
    with pytest.raises(JobError, match="unknown data"):
        job_for(given, other, data={"name": "digit"})
    (tmp_path / "p.json").write_text('{"groups": 3}')
    for path in (tmp_path / "p.json", tmp_path / "missing.json"):
        with pytest.raises(InputError, match="policy"):
            read_policy(path)
    assert not out.exists()


def test_the_commands(files: dict[str, Path], other: Path, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": {"name": "digits"}}))
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump({"name": "digits"}))
    out = tmp_path / "again.onnx"
    arguments = ["--model", "digits_cnn", "--checkpoint", str(other), "--to", "onnx"]
    arguments += ["--out", str(out), "--data", str(tmp_path / "data.yaml"), "--format", "json"]
    done = _run("apply", str(files["torch"]), *arguments, "--no-recovery")
    measured = json.loads(done.stdout)["measurements"]
    assert measured["error"][0] > 0
    done = _run("verify", str(out), "--data", str(tmp_path / "alone.yaml"), "--format", "json")
    body = json.loads(done.stdout)
    assert body["agrees"]
    assert body["same_samples"]
    assert body["metrics"]["error"]["claimed"] == measured["error"]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def _small_images(directory: Path) -> dict[str, Any]:
    """Return the data of a job with a few random colour images."""
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (80, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(80) % 10
    path = directory / "small.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return {"name": "cifar10", "path": str(path), "splits": {"search": 40, "report": 40}}


def test_it_matters_which_units_stay_and_they_do(tmp_path: Path) -> None:
    """A padded shortcut counts what stayed before and after; the number alone does not tell."""
    job = {
        "name": "padded",
        "model": {"name": "cifar_resnet20"},
        "data": _small_images(tmp_path),
        "space": {"name": "layerwise", "keep_ratio": [0.3, 0.6], "exclude": ["*.conv1"]},
        "objectives": ["loss", "macs"],
        "searchers": ["random"],
        "baselines": {"searchers": []},
        "rungs": [{"repair": "none"}],
        "budget": {"trials": 3},
        "resources": {"workers": "serial", "device": "cpu"},
    }
    autoprune.search(validated(job), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    pruned = [x for x in run.front(on_report=True).members if x.policy.decisions]
    assert pruned
    for trial in pruned:
        path = run.export(trial, "torch", tmp_path / f"{trial.number}.safetensors").path
        (row,) = (row for row in verify(path).rows if row.metric == "loss")
        assert row.measured is not None
        assert row.measured.value == pytest.approx(row.claimed.value, rel=1e-4)
