"""Networks of real fronts in every format, each verified from scratch on T of CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import pytest

import autoprune
from autoprune import plugins
from autoprune.contracts.exporter import Exporter, NetworkExporter, RunExporter
from autoprune.errors import ExportError
from autoprune.job.spec import PluginSpec
from autoprune.run import Run
from autoprune.validation import load_job
from autoprune.verification import verify
from tests.slow.test_cifar10 import DATA, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not (DATA / "cifar10.npz").exists(), reason="needs ../shared/data"),
]
WEIGHTS = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}
# What these formats cannot express is refused by name.
REFUSED = {
    "onnx_int8": "no layer of this one has fewer than 32 bits",
    "semi_structured": "2:4",
    "llm_compressor": "",
}


@pytest.fixture(scope="module", params=[20, 56])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = [
        f"model.name=cifar_resnet{request.param}",
        f"model.checkpoint={DATA / WEIGHTS[request.param]}",
        f"data.path={DATA / 'cifar10.npz'}",
        "resources={device: cpu, workers: serial}",
        "baselines={searchers: [], trials: 1}",
        "rungs=[{repair: both, repair_images: 500, images: 500}]",
        "budget.trials=6",
    ]
    job = load_job(ROOT / "examples" / "cifar10_resnet20.yaml", settings)
    directory = tmp_path_factory.mktemp("exports") / "run"
    autoprune.search(job, directory)
    return Run.open(directory)


@pytest.mark.parametrize("name", [x for x in plugins.names("exporter") if x != "mlflow"])
def test_a_member_of_the_front_leaves(name: str, run: Run, tmp_path: Path) -> None:
    exporter: Exporter[object] = plugins.create("exporter", PluginSpec(name=name))
    pruned = [trial for trial in run.front().members if trial.policy.decisions]
    trial = max(pruned, key=lambda each: each.number)
    path = tmp_path / f"network{exporter.suffix}"
    if name in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[name]):
            run.export(trial, name, path)
        assert not list(tmp_path.iterdir())
        return
    exported = run.export(trial, name, path)
    assert exported.path == path
    if isinstance(exporter, RunExporter) or not isinstance(exporter, NetworkExporter):
        return
    found = verify(path)
    assert found.format == name
    assert found.samples == 5000
    assert found.agrees
    (error,) = (row for row in found.rows if row.metric == "error")
    assert error.measured is not None
    assert error.measured.value == pytest.approx(error.claimed.value, abs=1e-3)
