"""Sparsity and bits searched together, to the network that is deployed, as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import autoprune
from autoprune.data.dataset import Dataset
from autoprune.data.digits import Digits
from autoprune.job.spec import SplitSpec
from autoprune.quantization.form import quantised_layers
from autoprune.report.figures import bits_figure
from autoprune.run import Run
from tests.commands import command


@pytest.fixture(scope="module")
def run(digits_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of two rungs, the second trained as it is rounded."""
    directory = tmp_path_factory.mktemp("quantised")
    job = {
        "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
        "data": {"name": "digits"},
        "resources": {"workers": "serial", "device": "cpu"},
        "space": {"name": "mixed", "keep_ratio": [0.3, 1.0], "bits": [3, 8], "rank": [0.5, 1.0]},
        "objectives": ["error", "size_bytes", "bitops"],
        "searchers": ["nsga2", "surrogate"],
        "baselines": {"searchers": ["uniform"], "trials": 2},
        "rungs": [
            {"repair_images": 200, "images": 200},
            {"finetune_steps": 15, "distill": {"teacher": "front"}, "images": 300},
        ],
        "budget": {"trials": 8},
    }
    (directory / "job.yaml").write_text(yaml.safe_dump(job))
    done = command("search", str(directory / "job.yaml"), "--run", str(directory / "run"))
    assert done.returncode == 0, done.stderr
    assert "measured on the deployed network (onnx): error" in done.stdout.replace("\n", " ")
    return directory / "run"


def test_the_front_says_what_was_measured_on_the_deployed_network(run: Path) -> None:
    body = json.loads(command("front", str(run), "--format", "json").stdout)
    rounded = [each for each in body["trials"] if each["policy"].get("layers")]
    assert rounded
    for each in rounded:
        deployment = each["deployment"]
        assert deployment["target"] == "onnx"
        assert deployment["metrics"] == ["error"]
        assert deployment["file_bytes"] > 0
        narrow = any(x.get("weight_bits") == 3 for x in each["policy"]["layers"].values())
        assert any("3-bit kernels run as 8-bit" in x for x in deployment["notes"]) == narrow
    assert "°" in command("front", str(run)).stdout
    report = (run / "report.html").read_text()
    assert re.search(r"<td[^>]*>[\d.]+ %°", report)
    assert "How many bits the front gives every layer" in report
    opened = Run.open(run)
    figure = bits_figure(opened)
    for row, name in enumerate(figure.data[0].y):
        bits = [each.policy.layer(name).weight_bits for each in opened.front().members]
        assert list(figure.data[0].text[row]) == bits
        assert list(figure.data[0].z[row]) == pytest.approx(np.log2(bits))


def test_bits_are_shown_layer_by_layer(run: Path) -> None:
    number = next(x.number for x in Run.open(run).front().members if x.policy.is_quantised)
    shown = command("show", str(run), str(number)).stdout
    assert "weight bits" in shown
    assert "bit operations" in shown
    assert "deployed on onnx, a file of" in shown


def test_larger_networks_of_the_front_teach(run: Path) -> None:
    opened = Run.open(run)
    taught = [x for x in opened.history.trials.values() if x.teacher is not None]
    assert taught
    for trial in taught:
        teacher = opened.history.trials[trial.teacher]
        sizes = [opened.graph.costs.costs(x.policy).size_bytes for x in (teacher, trial)]
        assert sizes[0] > sizes[1]
        assert teacher.rung == trial.rung == 1
        assert teacher.evaluation.weights is not None


def test_a_quantised_network_leaves_as_files_that_run(run: Path, tmp_path: Path) -> None:
    number = next(x.number for x in Run.open(run).front().members if x.policy.is_quantised)
    whole, kept = tmp_path / "whole.onnx", tmp_path / "kept.safetensors"
    for target, path in (("onnx_int8", whole), ("torch", kept)):
        done = command("export", str(run), str(number), "--to", target, "--out", str(path))
        assert done.returncode == 0, done.stderr
    network = autoprune.load(kept)
    assert quantised_layers(network)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(whole), providers=["CPUExecutionProvider"])
    dataset = Dataset.from_raw(Digits().load(), SplitSpec())
    inputs = dataset.normalise(dataset.report.inputs).contiguous()
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    agree = network(inputs).argmax(1) == torch.from_numpy(outputs).argmax(1)
    assert agree.float().mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space.bits": "[1,8]"}, "bits must be some of 2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ({"space.protect": "[nowhere]"}, "matches no layer"),
        ({"quantization.target": "tensorrt"}, "quantization.target"),
        ({"rungs.1.distill": "{teacher: {name: digits_cnn, num_classes: 7}}"}, "classes"),
        ({"rungs.1.recovery": "{name: finetune, optimiser: adamw}"}, "optimizer"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    run: Path, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    options = [word for x, value in changes.items() for word in ("--set", f"{x}={value}")]
    done = command("inspect", str(run.parent / "job.yaml"), *options)
    assert done.returncode == 2
    assert words in done.stderr.replace("\n", " ")
    assert not list(tmp_path.iterdir())
