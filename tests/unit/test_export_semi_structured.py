"""2:4 sparsity: words by hand, PyTorch's own conversion, and layers that are passed over."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS as Cutlass
from torch.sparse import _semi_structured_conversions as theirs

from autoprune.contracts.exporter import Candidate, Exporter, PolicyExporter
from autoprune.errors import ExportError
from autoprune.exporters import semi_structured_exporter
from autoprune.exporters._two_four import packed, share_that_fits, unpacked
from autoprune.exporters.semi_structured_exporter import SemiStructured
from autoprune.plugins import load
from autoprune.policy import LayerDecision
from autoprune.quantization.form import attach
from autoprune.seal import open_seal
from autoprune.surgery.sparsify import matrix_of
from autoprune.testing import ExporterContract
from tests import exporting
from tests.handing_over import reseal, stamp_in

DTYPES = (torch.float16, torch.bfloat16)


@torch.no_grad()
def sparse(network: nn.Module, *names: str) -> nn.Module:
    """Return a copy whose layers have zeros for the two smallest of every four inputs."""
    network = copy.deepcopy(network)
    for name in names:
        kernel = network.get_parameter(f"{name}.weight")
        inputs_last = kernel.movedim(1, -1)
        blocks = inputs_last.reshape(-1, 4)
        blocks = blocks.scatter(1, blocks.abs().argsort(1)[:, :2], 0.0)
        kernel.copy_(blocks.view(inputs_last.shape).movedim(-1, 1))
    return network


@pytest.fixture(scope="module")
def digits() -> Candidate:
    """The whole digits network, with 2:4 kernels in a convolution and the hidden layer."""
    candidate = exporting.pruned("digits_cnn", 1.0)
    return replace(candidate, network=sparse(candidate.network, "conv", "hidden"))


class TestSemiStructured(ExporterContract):
    @pytest.fixture(autouse=True)
    def _use(self, digits: Candidate) -> None:
        self._digits = digits

    def make(self) -> Exporter[Any]:
        return SemiStructured()

    def source(self) -> Candidate:
        return self._digits


def random_matrix(rows: int, columns: int, dtype: torch.dtype, *, fewer: bool) -> Tensor:
    """Return a 2:4 matrix; with `fewer`, some blocks have one non-zero or none."""
    seeded = torch.Generator().manual_seed(rows + columns)
    blocks = torch.randn(rows * columns // 4, 4, generator=seeded)
    order = torch.rand(blocks.shape, generator=seeded).argsort(1)
    zeros = 2 + torch.randint(3, (len(blocks), 1), generator=seeded) * fewer
    blocks[order.argsort(1) < zeros] = 0.0
    return blocks.view(rows, columns).to(dtype)


def test_words_by_hand() -> None:
    matrix = torch.zeros(32, 64, dtype=torch.float16)
    matrix[0, :16] = torch.tensor([1, 2, 0, 0, 0, 0, 3, 4, 5, 0, 0, 6, 0, 7, 8, 0])
    values, meta = packed(matrix)
    assert values[0, :8].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    # Places 0 1, 2 3, 0 3, 1 2: two bits each, the first lowest.
    assert meta[0, 0] == 0b1001_1100_1110_0100 - 2**16
    # An empty block names the last two places.
    assert values[1:].count_nonzero() == 0
    assert set(meta.flatten()[1:].tolist()) == {0b1110_1110_1110_1110 - 2**16}
    # Rows of 32 are interwoven: the word of row 1 is the fifth of its column pair.
    matrix[1, :4] = torch.tensor([0, 9, 0, 9])
    changed = (packed(matrix)[1] != meta).flatten().nonzero().flatten().tolist()
    assert changed == [2 * 4]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (64, 64), (96, 320), (160, 192)])
def test_packing_is_that_of_pytorch(
    rows: int, columns: int, dtype: torch.dtype, fewer: bool
) -> None:
    matrix = random_matrix(rows, columns, dtype, fewer=fewer)
    assert share_that_fits(matrix) == 1.0
    values, meta = packed(matrix)
    expected_values, expected_meta = theirs.sparse_semi_structured_from_dense_cutlass(matrix)
    assert torch.equal(values, expected_values)
    assert torch.equal(meta, expected_meta)
    assert torch.equal(unpacked(values, meta), matrix)


def test_constraints_are_those_of_pytorch() -> None:
    for dtype in DTYPES:
        limits = Cutlass._DTYPE_SHAPE_CONSTRAINTS[dtype]
        assert (limits.sparse_min_rows, limits.sparse_min_cols) == (
            semi_structured_exporter.ROWS,
            semi_structured_exporter.COLUMNS,
        )


def test_blocks_of_a_convolution_lie_along_its_inputs() -> None:
    kernel = torch.arange(2.0 * 8 * 3 * 3).view(2, 8, 3, 3)
    matrix = matrix_of(kernel)
    assert matrix.shape == (2, 72)
    # NVIDIA's ASP: (height, width, outputs, inputs), four inputs at a time.
    asp = kernel.permute(2, 3, 0, 1).reshape(-1, 4)
    blocks = matrix.reshape(-1, 4)
    assert {tuple(x) for x in asp.tolist()} == {tuple(x) for x in blocks.tolist()}
    assert torch.equal(matrix[1, 8:16], kernel[1, :, 0, 1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_file_holds_both_forms(
    dtype: Literal["float16", "bfloat16"], digits: Candidate, tmp_path: Path
) -> None:
    path = SemiStructured(dtype=dtype).export(digits, tmp_path / "knee.safetensors").path
    found = load_file(path)
    for name, each in digits.network.state_dict().items():
        assert torch.equal(found[name], each)
    with safe_open(str(path), framework="pt") as file:
        contents = json.loads(file.metadata()["semi_structured"])
    assert contents["dtype"] == dtype
    assert contents["layers"] == {"conv": [64, 576], "hidden": [64, 1024]}
    assert list(contents["dense"]) == ["stem", "block.conv1", "block.conv2", "down", "output"]
    assert contents["dense"]["stem"] == "its 1 inputs are not divided by 4"
    assert re.fullmatch(r"\d+\.\d % of its blocks of 4 fit", contents["dense"]["down"])
    dense = theirs.sparse_semi_structured_to_dense_cutlass(
        found["hidden.weight.packed"], found["hidden.weight.meta"]
    )
    hidden = digits.network.get_parameter("hidden.weight")
    assert torch.equal(dense, hidden.to(getattr(torch, dtype)))
    assert stamp_in(path)["job"] == "test"


def test_a_network_without_such_kernels_is_refused(tmp_path: Path) -> None:
    candidate = exporting.pruned("cifar_resnet20", 1.0)
    with pytest.raises(ExportError, match="no layer of this network") as caught:
        SemiStructured().export(candidate, tmp_path / "knee")
    assert "'layer1.0.conv1': 0.0 % of its blocks of 4 fit" in str(caught.value)
    assert "ASP" in str(caught.value)
    assert "--to torch" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def network_of(layer: nn.Module, example: Tensor) -> Candidate:
    return Candidate(nn.Sequential(layer).eval().requires_grad_(False), example)


@pytest.mark.parametrize(
    ("layer", "example", "reason"),
    [
        (nn.Linear(64, 48), torch.randn(2, 64), "its matrix 48×64 is no multiple of 32×64"),
        (nn.Linear(96, 32), torch.randn(2, 96), "its matrix 32×96 is no multiple of 32×64"),
        (nn.Linear(62, 32), torch.randn(2, 62), "its 62 inputs are not divided by 4"),
        (
            nn.Conv2d(8, 32, (2, 4)),
            torch.randn(2, 8, 4, 4),
            "32×8 channels are no multiple of 8×16",
        ),
        (
            nn.Conv2d(128, 64, 1, groups=2),
            torch.randn(2, 128, 4, 4),
            "it is a convolution in 2 groups",
        ),
    ],
)
def test_shapes_that_no_kernel_takes_are_named(
    layer: nn.Module, example: Tensor, reason: str, tmp_path: Path
) -> None:
    candidate = network_of(layer, example)
    network = sparse(candidate.network, "0") if "62" not in reason else candidate.network
    with pytest.raises(ExportError, match=re.escape(reason)):
        SemiStructured().export(replace(candidate, network=network), tmp_path / "knee")


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    candidate = network_of(nn.Linear(64, 32), torch.randn(2, 64))
    network = sparse(candidate.network, "0")
    with torch.no_grad():
        network.get_parameter("0.weight").mul_(1e8)
    candidate = replace(candidate, network=network)
    with pytest.raises(ExportError, match="beyond float16; use bfloat16"):
        SemiStructured().export(candidate, tmp_path / "knee")
    SemiStructured(dtype="bfloat16").export(candidate, tmp_path / "knee")


def test_negative_zeros_are_zeros(tmp_path: Path) -> None:
    candidate = network_of(nn.Linear(64, 32), torch.randn(2, 64))
    network = sparse(candidate.network, "0")
    with torch.no_grad():
        network.get_parameter("0.weight").mul_(-1.0)
    SemiStructured().export(replace(candidate, network=network), tmp_path / "knee")


def test_bits_are_refused(digits: Candidate, tmp_path: Path) -> None:
    network = copy.deepcopy(digits.network)
    attach(network, {"conv": LayerDecision(8, 8)})
    with pytest.raises(ExportError, match="layers 'conv' have fewer than 32 bits"):
        SemiStructured().export(replace(digits, network=network), tmp_path / "knee")


def test_changed_files_are_refused(digits: Candidate, tmp_path: Path) -> None:
    path = SemiStructured().export(digits, tmp_path / "knee.safetensors").path
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(ExportError):
            SemiStructured().check(digits, path)


@pytest.mark.parametrize("part", ["hidden.weight.packed", "conv.weight.meta", "stem.weight"])
def test_entries_that_were_sealed_anew_are_noticed(
    part: str, digits: Candidate, tmp_path: Path
) -> None:
    path = SemiStructured().export(digits, tmp_path / "knee.safetensors").path
    entries = load_file(path)[part].contiguous().view(torch.uint8).numpy().tobytes()
    changed = bytes([entries[0] ^ 1]) + entries[1:]
    reseal(path, lambda content: content.replace(entries, changed))
    with pytest.raises(
        ExportError, match=re.escape(part.removesuffix(".packed").removesuffix(".meta"))
    ):
        SemiStructured().check(digits, path)


def test_headers_that_were_sealed_anew_are_noticed(digits: Candidate, tmp_path: Path) -> None:
    path = SemiStructured().export(digits, tmp_path / "knee.safetensors").path
    reseal(path, lambda content: content.replace(b"[64, 576]", b"[64, 575]"))
    with pytest.raises(ExportError, match="does not hold the layers"):
        SemiStructured().check(digits, path)


def test_any_provenance_can_be_written(digits: Candidate, tmp_path: Path) -> None:
    hostile = {"job": '"""\'\'\'\\"\n\0', "é \ud800": ["\x7f"]}
    candidate = replace(digits, provenance=hostile)
    path = SemiStructured().export(candidate, tmp_path / "knee.safetensors").path
    said = stamp_in(path)
    del said["seal"]
    assert said == {**hostile, "format": "semi_structured"}
    with pytest.raises(ExportError, match="2 seals"):
        SemiStructured().export(replace(digits, provenance={"job": open_seal()}), tmp_path / "b")


def test_it_is_found_by_its_name() -> None:
    assert issubclass(load("exporter", "semi_structured"), PolicyExporter)
