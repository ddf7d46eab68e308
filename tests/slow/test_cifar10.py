"""The pretrained ResNet-20 on real CIFAR-10: published accuracy, search, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import autoprune
from autoprune.contracts.executor import WorkItem
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.policy import LayerDecision, Policy, Recipe
from autoprune.preflight import preflight
from autoprune.report.summary import summarise
from autoprune.trial import shown
from autoprune.validation import load_job

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SETTINGS = [
    f"model.checkpoint={DATA / 'resnet20-12fca82f.th'}",
    f"data.path={DATA / 'cifar10.npz'}",
    "resources.device=cpu",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not (DATA / "cifar10.npz").exists(), reason="needs ../shared/data"),
]


def test_the_dense_network_has_its_published_accuracy() -> None:
    job = load_job(ROOT / "examples" / "cifar10_resnet20.yaml", SETTINGS)
    found = preflight(job)
    assert found.dense.macs == 40_551_040
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)}
    stages = {"conv1", "layer2.0.conv2", "layer3.0.conv2"}
    assert {x.name for x in found.preparation.graph.groups.prunable} == inner | stages
    assert {x.name for x in found.space.parameters} == inner
    evaluator = NetworkEvaluator(job=job.to_json(), preparation=found.preparation.to_json())
    bench = evaluator.bench
    wrong = 0
    for part in (bench.dataset.search, bench.dataset.report):
        for start in range(0, len(part), 500):
            inputs = bench.dataset.normalise(part.inputs[start : start + 500])
            with torch.inference_mode():
                classes = bench.model(inputs).argmax(1)
            wrong += int((classes != part.labels[start : start + 500]).sum())
    assert wrong == 827  # 91.73 % of the 10,000 test images
    on_report = evaluator.evaluate(WorkItem(0, Policy(), split="report"))
    assert on_report.value("error") == pytest.approx(0.0827, abs=0.01)


def test_the_example_beats_uniform_on_the_report_split_and_exports(tmp_path: Path) -> None:
    job = load_job(ROOT / "examples" / "cifar10_resnet20.yaml", SETTINGS)
    run = autoprune.search(job, tmp_path / "run")
    rows = {row.label: row for row in summarise(run)}
    uniform = rows["uniform"].report_hypervolume
    assert uniform is not None
    assert (rows["surrogate"].report_hypervolume or 0.0) > uniform

    knee = run.front().knee()
    run.export(knee, "onnx", tmp_path / "knee.onnx")
    evaluator = NetworkEvaluator(job=run.job.to_json(), preparation=run.preparation)
    part, dataset = evaluator.bench.dataset.report, evaluator.bench.dataset
    session = onnxruntime.InferenceSession(str(tmp_path / "knee.onnx"))
    wrong = 0
    for start in range(0, len(part), 500):
        inputs = dataset.normalise(part.inputs[start : start + 500]).contiguous().numpy()
        (logits,) = session.run(None, {"input": inputs})
        wrong += int(np.sum(logits.argmax(1) != part.labels[start : start + 500].numpy()))
    assert wrong / len(part) == pytest.approx(shown(knee).value("error"), abs=0.002)


def test_fewer_bits_are_as_accurate_as_elsewhere() -> None:
    """Kernels alone, rounded to the nearest, without training: the first 1,000 test images."""
    job = load_job(ROOT / "examples" / "cifar10_mixed.yaml", [*SETTINGS, "objectives=[error]"])
    found = preflight(job)
    evaluator = NetworkEvaluator(job=job.to_json(), preparation=found.preparation.to_json())
    bench, layers = evaluator.bench, found.preparation.graph.groups.layers
    with np.load(DATA / "cifar10.npz") as file:
        images, labels = file["x_test"][:1000], file["y_test"][:1000].astype(np.int64).flatten()
    inputs = bench.dataset.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
    right = {}
    for bits in (32, 8, 6, 5, 4, 3, 2):
        decisions = {each.name: LayerDecision(bits) for each in layers}
        policy = Policy(recipe=Recipe(rounding="nearest"), layers=decisions)
        canonical = found.preparation.graph.groups.canonical(policy)
        network = evaluator.network(WorkItem(1, canonical), torch.float32)
        with torch.inference_mode():
            classes = torch.cat([network(x).argmax(1) for x in inputs.split(250)]).numpy()
        right[bits] = int((classes == labels).sum())
    assert right == {32: 915, 8: 914, 6: 917, 5: 916, 4: 904, 3: 730, 2: 95}
