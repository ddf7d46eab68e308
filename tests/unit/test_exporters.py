"""Exporters: the contract, provenance in the file, and files that were tampered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate, Exporter
from autoprune.errors import AutopruneError, ExportError
from autoprune.evaluation.weights import save_weights
from autoprune.exporters.onnx_exporter import Onnx
from autoprune.exporters.torch_exporter import Torch
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.rebuild import load, shrunk
from autoprune.testing import ExporterContract
from autoprune.tracing.discovery import discover
from tests.exporting import provenance


@pytest.fixture(scope="module")
def pruned() -> Candidate:
    spec = ModelSpec(name="digits_cnn")
    model = build_model(spec, 10, (1, 8, 8))
    example = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    groups = discover(model, example).groups
    policy = groups.canonical(Policy.from_keep_ratios({"stem": 0.5, "hidden": 0.25}))
    network = shrunk(model, groups, policy).eval()
    return Candidate(network, example, provenance(spec, groups, policy, (1, 8, 8)))


class _DigitsContract(ExporterContract):
    @pytest.fixture(autouse=True)
    def _use(self, pruned: Candidate) -> None:
        self._pruned = pruned

    def candidate(self) -> Candidate:
        return self._pruned


@pytest.mark.filterwarnings("ignore")
class TestOnnx(_DigitsContract):
    def make(self) -> Exporter:
        return Onnx()


class TestTorch(_DigitsContract):
    def make(self) -> Exporter:
        return Torch()


del _DigitsContract


@pytest.mark.filterwarnings("ignore")
def test_provenance_travels_in_the_files(pruned: Candidate, tmp_path: Path) -> None:
    Onnx().export(pruned, tmp_path / "a.onnx")
    entries = {x.key: x.value for x in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(entries["autoprune"]) == pruned.provenance
    Torch().export(pruned, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["autoprune"]) == pruned.provenance


def test_load_gives_the_pruned_module(pruned: Candidate, tmp_path: Path) -> None:
    Torch().export(pruned, tmp_path / "a.safetensors")
    network = load(tmp_path / "a.safetensors")
    assert not network.training
    shapes = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    assert shapes == {name: tuple(x.shape) for name, x in pruned.network.state_dict().items()}
    assert network.get_submodule("hidden").out_features == 16  # type: ignore[comparison-overlap]


def test_files_of_another_origin_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in (
        ("foreign.safetensors", "not written by autoprune"),
        ("text.safetensors", "cannot read"),
        ("missing.safetensors", "cannot read"),
    ):
        with pytest.raises(ExportError, match=message):
            load(tmp_path / name)


def test_weights_that_do_not_fit_are_refused(pruned: Candidate, tmp_path: Path) -> None:
    header = {"autoprune": json.dumps(pruned.provenance)}
    save_file({"stem.weight": torch.zeros(3)}, tmp_path / "bad.safetensors", metadata=header)
    with pytest.raises(AutopruneError, match="do not fit"):
        load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("change", ["no JSON", "no object", "no groups", "no model", "bad model"])
def test_a_tampered_header_is_refused_in_words(
    pruned: Candidate, tmp_path: Path, change: str
) -> None:
    body: dict[str, Any] = dict(pruned.provenance)
    header = {
        "no JSON": "{nope",
        "no object": "[]",
        "no groups": json.dumps({k: v for k, v in body.items() if k != "groups"}),
        "no model": json.dumps({k: v for k, v in body.items() if k != "model"}),
        "bad model": json.dumps({**body, "model": {"name": "digits_cnn", "nonsense": 1}}),
    }[change]
    state = {name: each.contiguous() for name, each in pruned.network.state_dict().items()}
    save_file(state, tmp_path / "bad.safetensors", metadata={"autoprune": header})
    with pytest.raises(AutopruneError, match=r"bad\.safetensors"):
        load(tmp_path / "bad.safetensors")


def test_a_policy_that_does_not_fit_its_groups_is_refused(
    pruned: Candidate, tmp_path: Path
) -> None:
    body = {**pruned.provenance, "groups": {"groups": [], "blocks": [], "layers": []}}
    state = {name: each.contiguous() for name, each in pruned.network.state_dict().items()}
    save_file(state, tmp_path / "bad.safetensors", metadata={"autoprune": json.dumps(body)})
    with pytest.raises(AutopruneError, match="does not exist"):
        load(tmp_path / "bad.safetensors")


class Twice(nn.Module):
    """Runs one layer under two names, so that its state holds the same tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = self.first
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.second(torch.relu(self.first(x)))))


def test_weights_under_two_names_can_be_written(tmp_path: Path) -> None:
    candidate = Candidate(Twice().eval(), torch.randn(2, 6))
    Torch().write(candidate, tmp_path / "twice.safetensors")
    save_weights(candidate.network, tmp_path)
