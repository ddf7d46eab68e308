"""Exporters: the contract, provenance in the file, and files that were tampered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate, NetworkExporter
from autoprune.errors import AutopruneError, ExportError
from autoprune.evaluation.weights import save_weights
from autoprune.exporters.onnx_exporter import Onnx
from autoprune.exporters.torch_exporter import Torch
from autoprune.rebuild import load
from autoprune.safetensors_header import read_header
from autoprune.seal import open_seal, seal
from tests import exporting


@pytest.fixture(scope="module")
def pruned() -> Candidate:
    return exporting.digits()


@pytest.mark.filterwarnings("ignore")
class TestOnnx(exporting.DigitsContract):
    def make(self) -> NetworkExporter:
        return Onnx()


class TestTorch(exporting.DigitsContract):
    def make(self) -> NetworkExporter:
        return Torch()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [x for x in exporting.FAMILIES if x != "digits_cnn"])
def test_every_family_leaves(family: str, tmp_path: Path) -> None:
    """Both read their file back and compare; they raise where outputs differ."""
    candidate = exporting.pruned(family, dropped=2 if family == "vit" else 0)
    assert Onnx().export(candidate, tmp_path / "a.onnx").max_error < 1e-4
    assert Torch().export(candidate, tmp_path / "a.safetensors").max_error == 0.0


def write(state: dict[str, Tensor], header: str, path: Path) -> Path:
    """Write a file by hand, with a seal that fits where the header has room for one."""
    save_file(state, path, metadata={"autoprune": header})
    if open_seal() in header:
        seal(path)
    return path


def test_load_gives_the_pruned_module(pruned: Candidate, tmp_path: Path) -> None:
    Torch().export(pruned, tmp_path / "a.safetensors")
    network = load(tmp_path / "a.safetensors")
    assert not network.training
    shapes = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    assert shapes == {name: tuple(x.shape) for name, x in pruned.network.state_dict().items()}
    assert network.get_submodule("hidden").out_features == 32  # type: ignore[comparison-overlap]


def test_kernels_are_stored_without_their_zeros(tmp_path: Path) -> None:
    candidate = exporting.pruned("cifar_resnet20")
    stored = sum(each.nbytes for each in candidate.network.state_dict().values())
    pattern = torch.arange(stored) % 10 == 3  # a tenth of every kernel, anywhere
    with torch.no_grad():
        for each in candidate.network.parameters():
            if each.dim() > 1:
                each.mul_(pattern[: each.numel()].view_as(each))
    path = Torch().export(candidate, tmp_path / "a.safetensors").path
    # A tenth of the values, a bit for each, and what lies beside the kernels.
    assert 0.10 * stored < path.stat().st_size - len(read_header(path)) < 0.20 * stored
    for name, each in load(path).state_dict().items():
        assert torch.equal(each, candidate.network.state_dict()[name])


def test_damaged_kernels_are_refused(pruned: Candidate, tmp_path: Path) -> None:
    state = {"stem.weight:values": torch.ones(3), "stem.weight:bits": torch.zeros(2)}
    path = write(state, Torch().stamped(pruned.provenance), tmp_path / "bad.safetensors")
    with pytest.raises(ExportError, match=r"bad\.safetensors are damaged: stem\.weight is stored"):
        load(path)


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
    header = Torch().stamped(pruned.provenance)
    path = write({"stem.weight": torch.zeros(30)}, header, tmp_path / "bad.safetensors")
    with pytest.raises(AutopruneError, match="do not fit"):
        load(path)


@pytest.mark.parametrize("change", ["no JSON", "no object", "no groups", "no model", "bad model"])
def test_a_tampered_header_is_refused_in_words(
    pruned: Candidate, tmp_path: Path, change: str
) -> None:
    body: dict[str, Any] = {**pruned.provenance, "seal": open_seal()}
    header = {
        "no JSON": "{nope" + open_seal(),
        "no object": json.dumps([open_seal()]),
        "no groups": json.dumps({k: v for k, v in body.items() if k != "groups"}),
        "no model": json.dumps({k: v for k, v in body.items() if k != "model"}),
        "bad model": json.dumps({**body, "model": {"name": "digits_cnn", "nonsense": 1}}),
    }[change]
    state = {name: each.contiguous() for name, each in pruned.network.state_dict().items()}
    path = write(state, header, tmp_path / "bad.safetensors")
    with pytest.raises(AutopruneError, match=r"bad\.safetensors"):
        load(path)


def test_a_policy_that_does_not_fit_its_groups_is_refused(
    pruned: Candidate, tmp_path: Path
) -> None:
    body = {**pruned.provenance, "groups": {"groups": [], "blocks": [], "layers": []}}
    state = {name: each.contiguous() for name, each in pruned.network.state_dict().items()}
    path = write(state, Torch().stamped(body), tmp_path / "bad.safetensors")
    with pytest.raises(AutopruneError, match="does not exist"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [{"num_classes": 10**12}, {"input_shape": [3, 10**6, 10**6]}, {"input_shape": [10**9]}],
)
def test_sizes_that_weights_cannot_have_are_refused_before_they_are_allocated(
    pruned: Candidate, tmp_path: Path, change: dict[str, Any]
) -> None:
    state = {name: each.contiguous() for name, each in pruned.network.state_dict().items()}
    header = Torch().stamped({**pruned.provenance, **change})
    path = write(state, header, tmp_path / "bad.safetensors")
    with pytest.raises(ExportError, match="cannot be those of its weights"):
        load(path)


def test_tensors_larger_than_their_file_are_refused(pruned: Candidate, tmp_path: Path) -> None:
    Torch().export(pruned, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["stem.weight"]["shape"] = [10**6, 10**6]
    start = header["stem.weight"]["data_offsets"][0]
    header["stem.weight"]["data_offsets"] = [start, start + 4 * 10**12]
    text = json.dumps(header).encode()
    forged = len(text).to_bytes(8, "little") + text + content[8 + size :]
    (tmp_path / "a.safetensors").write_bytes(forged)
    with pytest.raises(ExportError, match="cannot read"):
        load(tmp_path / "a.safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [1 << 36, 1 << 62, -5])
def test_onnx_tensors_larger_than_their_file_are_refused(
    pruned: Candidate, tmp_path: Path, rows: int
) -> None:
    Onnx().export(pruned, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    model.graph.initializer[0].dims[0] = rows
    onnx.save_model(model, str(tmp_path / "forged.onnx"))
    with pytest.raises(ExportError, match="cannot read"):
        Onnx().opened(tmp_path / "forged.onnx")


@pytest.mark.filterwarnings("ignore")
def test_tensors_outside_of_the_file_are_not_read(pruned: Candidate, tmp_path: Path) -> None:
    Onnx().export(pruned, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "forged.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="keeps tensors in other files"):
        Onnx().opened(tmp_path / "below" / "forged.onnx")


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
