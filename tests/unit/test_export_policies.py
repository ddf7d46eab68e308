"""Policies for other tools: what all of them promise; Torch-Pruning and NNI."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate, Cut, Exporter, PolicyExporter
from autoprune.errors import ExportError
from autoprune.exporters import torch_pruning_exporter
from autoprune.exporters._channels import ratio_for
from autoprune.exporters._deadline import limited
from autoprune.exporters.llm_compressor_exporter import LlmCompressor
from autoprune.exporters.masks_exporter import Masks
from autoprune.exporters.nni_exporter import Nni, removed_by_nni
from autoprune.exporters.torch_pruning_exporter import TorchPruning, removed_by_torch_pruning
from autoprune.graph.group import GroupTable, Slice
from autoprune.plugins import load
from autoprune.policy import LayerDecision, Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.seal import open_seal
from autoprune.surgery.proof import prove
from autoprune.testing import ExporterContract
from autoprune.tracing.discovery import discover
from tests import exporting
from tests.conftest import ROOT
from tests.handing_over import (
    INNER,
    bits_only,
    channels_only,
    pruned,
    recut,
    reseal,
    stamp_in,
    with_layers,
)

CHANNEL_TOOLS: tuple[type[PolicyExporter], ...] = (TorchPruning, Nni)
UNIT_TOOLS: tuple[type[PolicyExporter], ...] = (TorchPruning, Nni, Masks)


@pytest.fixture(scope="module")
def digits() -> Candidate:
    return channels_only("digits_cnn")


class _DigitsContract(ExporterContract):
    @pytest.fixture(autouse=True)
    def _use(self, digits: Candidate) -> None:
        self._digits = digits

    def source(self) -> Candidate:
        return self._digits


class TestTorchPruning(_DigitsContract):
    def make(self) -> Exporter[Any]:
        return TorchPruning()


class TestNni(_DigitsContract):
    def make(self) -> Exporter[Any]:
        return Nni()


class TestMasks(_DigitsContract):
    def make(self) -> Exporter[Any]:
        return Masks()


class TestLlmCompressor(ExporterContract):
    def make(self) -> Exporter[Any]:
        return LlmCompressor()

    def source(self) -> Candidate:
        return bits_only()


del _DigitsContract


@pytest.mark.parametrize("name", ["torch_pruning", "nni", "masks", "llm_compressor"])
def test_formats_are_found_by_their_names(name: str) -> None:
    assert issubclass(load("exporter", name), PolicyExporter)


@pytest.mark.parametrize(
    "family",
    [pytest.param(x, marks=pytest.mark.slow) if x == "cifar_resnet56" else x for x in INNER],
)
@pytest.mark.parametrize("kind", UNIT_TOOLS)
def test_every_family_can_be_handed_over(
    kind: type[PolicyExporter], family: str, tmp_path: Path
) -> None:
    candidate = channels_only(family)
    path = kind().export(candidate, tmp_path / f"knee{kind.suffix}").path
    assert stamp_in(path)["policy_sha256"] == candidate.provenance["policy_sha256"]


@pytest.mark.parametrize("family", exporting.FAMILIES)
def test_masks_take_every_group_of_every_family(family: str, tmp_path: Path) -> None:
    candidate = pruned(family)
    assert Masks().export(candidate, tmp_path / "knee.safetensors").max_error < 1e-5


@pytest.mark.parametrize("kind", CHANNEL_TOOLS)
@pytest.mark.parametrize(
    ("family", "named"),
    [
        (
            "cifar_resnet20",
            "group 'conv1': they are not the output channels of layer2.0.conv2.weight, one each",
        ),
        ("vit", "group 'conv_proj': they are in the network itself, a VisionTransformer"),
        ("vit", "encoder_layer_0.self_attention:heads'"),
        ("vit", "encoder_layer_2.self_attention:values'"),
        ("lstm", "group 'cells': they are not the output channels of cells.weight_ih_l0"),
        ("lstm", "group 'embed'"),
    ],
)
def test_units_that_are_no_channels_are_refused(
    kind: type[PolicyExporter], family: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="cannot express") as caught:
        kind().export(pruned(family), tmp_path / "knee")
    assert named in str(caught.value)
    assert "--to masks" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", UNIT_TOOLS)
def test_blocks_bits_and_ranks_are_refused(
    kind: type[PolicyExporter], digits: Candidate, tmp_path: Path
) -> None:
    dropped = pruned("cifar_resnet20", dropped=1)
    assert dropped.cut is not None
    (block,) = dropped.cut.policy.dropped
    layers = {"conv": LayerDecision(4, 8), "hidden": LayerDecision(rank=7)}
    sparse = {"conv": LayerDecision(pattern="2:4")}
    for candidate, named in (
        (dropped, (f"block {block!r} is left out",)),
        (with_layers(digits, sparse), ("layer 'conv' keeps some of its weights (2:4)",)),
        (
            with_layers(digits, layers),
            ("layer 'conv' has 4-bit kernels and 8-bit inputs", "layer 'hidden' has rank 7"),
        ),
    ):
        with pytest.raises(ExportError, match="--to torch") as caught:
            kind().export(candidate, tmp_path / "knee")
        assert all(each in str(caught.value) for each in named)


@pytest.mark.parametrize("kind", [*UNIT_TOOLS, LlmCompressor])
def test_there_must_be_something_to_hand_over(
    kind: type[PolicyExporter], digits: Candidate, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="nothing for"):
        kind().export(recut(digits, Policy()), tmp_path / "knee")
    with pytest.raises(ExportError, match="needs the dense network"):
        kind().export(replace(digits, cut=None), tmp_path / "knee")


@pytest.mark.parametrize("kind", [*UNIT_TOOLS, LlmCompressor])
def test_any_provenance_can_be_written(
    kind: type[PolicyExporter], digits: Candidate, tmp_path: Path
) -> None:
    hostile = {
        "job": '"""\'\'\'\\"\n\r\t\0# -->\u2028{x} %s ${y}',
        "é 漢 \ud800": ["\x7f", "\\x41", "*/", "__import__('os')"],
        "nested": {"": None, "seal of another": "autoprune-sha256:"},
    }
    source = bits_only() if kind is LlmCompressor else digits
    candidate = replace(source, provenance=hostile)
    path = kind().export(candidate, tmp_path / f"knee{kind.suffix}").path
    said = stamp_in(path)
    assert re.fullmatch(r"autoprune-sha256:[0-9a-f]{64}", said.pop("seal"))
    assert {**hostile, "format": kind.__module__.split(".")[-1].removesuffix("_exporter")} == said
    with pytest.raises(ExportError, match="2 seals"):
        kind().export(replace(source, provenance={"job": open_seal()}), tmp_path / "other")


@pytest.mark.parametrize("kind", [*UNIT_TOOLS, LlmCompressor])
def test_changed_files_are_refused(
    kind: type[PolicyExporter], digits: Candidate, tmp_path: Path
) -> None:
    candidate = bits_only() if kind is LlmCompressor else digits
    path = kind().export(candidate, tmp_path / f"knee{kind.suffix}").path
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 23)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(ExportError):
            kind().check(candidate, path)
    for rest in (whole[:0], whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(rest)
        with pytest.raises(ExportError):
            kind().check(candidate, path)


@pytest.mark.parametrize("kind", UNIT_TOOLS)
def test_a_network_of_another_policy_is_refused(
    kind: type[PolicyExporter], digits: Candidate, tmp_path: Path
) -> None:
    other = replace(digits, network=channels_only("digits_cnn", 0.5).network)
    with pytest.raises(ExportError, match=r"stem|block\.conv1"):
        kind().export(other, tmp_path / "knee")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", [removed_by_nni, removed_by_torch_pruning])
def test_ratios_give_exactly_the_units_that_leave(rule: Callable[[int, float], int]) -> None:
    for units in (*range(2, 130), 997, 1000, 2048, 3000):
        for removed in {*range(1, min(units, 130)), units // 3 or 1, units // 2, units - 1}:
            assert rule(units, ratio_for(units, removed, rule)) == removed
    assert ratio_for(32, 16, rule) == 0.5


def test_tools_round_in_opposite_directions() -> None:
    # Of 10 × 0.49 and of 10 × (1 - 0.49) only the whole part counts.
    assert removed_by_nni(10, 0.49) == 4
    assert removed_by_torch_pruning(10, 0.49) == 5


def test_the_script_runs_alone(digits: Candidate, tmp_path: Path) -> None:
    path = TorchPruning().export(digits, tmp_path / "knee.py").path
    command = [sys.executable, str(path), "autoprune.models.digits_cnn:DigitsCnn", "1,1,8,8"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Conv2d(1, 19, kernel_size" in done.stdout
    assert "in_features=608, out_features=38" in done.stdout
    imported = {each for each in path.read_text().splitlines() if re.match("import|from", each)}
    assert imported == {
        "import importlib",
        "import sys",
        "import torch",
        "import torch_pruning as tp",
    }


@pytest.mark.filterwarnings("ignore")
def test_prune_leaves_modes_and_frozen_weights(digits: Candidate, tmp_path: Path) -> None:
    assert digits.cut is not None
    path = TorchPruning().export(digits, tmp_path / "knee.py").path
    names: dict[str, Any] = {"__name__": "knee"}
    exec(path.read_text(), names)
    model = copy.deepcopy(digits.cut.dense).train()
    model.get_submodule("stem_bn").eval()
    model.requires_grad_(True).get_submodule("stem").requires_grad_(False)
    names["prune"](model, digits.example)
    assert [x for x, each in model.named_modules() if not each.training] == ["stem_bn"]
    assert [x for x, each in model.named_parameters() if not each.requires_grad] == ["stem.weight"]
    names["KEPT"]["stem"] = 18
    with pytest.raises(RuntimeError, match="'stem' has 19 units instead of 18"):
        names["prune"](copy.deepcopy(digits.cut.dense), digits.example)


def test_a_script_of_somebody_else_is_not_run(digits: Candidate, tmp_path: Path) -> None:
    path = TorchPruning().export(digits, tmp_path / "knee.py").path
    mark = tmp_path / "was run"
    reseal(path, lambda x: x.replace(b"import sys\n", f"open({str(mark)!r}, 'w')\n".encode()))
    with pytest.raises(ExportError, match="not run"):
        TorchPruning().check(digits, path)
    assert not mark.exists()


def test_graphs_that_never_end_are_given_up(
    digits: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_pruning_exporter, "_PATIENCE_S", 0.0)
    before = sys.gettrace()
    with pytest.raises(ExportError, match="took more than 0 s"):
        TorchPruning().export(digits, tmp_path / "knee.py")
    assert sys.gettrace() is before
    with limited(60.0):
        assert sys.gettrace() is not before
    assert sys.gettrace() is before


class Remembers(nn.Module):
    """Two convolutions; the number of channels between them is remembered, and may be used."""

    def __init__(self, *, is_used: bool) -> None:
        super().__init__()
        self.width, self.is_used = 12, is_used
        self.first = nn.Conv2d(3, self.width, 3)
        self.second = nn.Conv2d(self.width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        if self.is_used:
            y = y.reshape(len(x), self.width, 6, 6)
        return self.second(y).mean((2, 3))


def remembering(*, is_used: bool) -> Candidate:
    model = Remembers(is_used=is_used).eval().requires_grad_(False)
    example = torch.randn(2, 3, 8, 8)
    groups = prove(model, discover(model, example).groups, example).groups
    group = groups["first"]
    if not is_used:  # a number that carving corrects although nothing depends on it
        (out, *_) = (each for each in group.slices if each.role == "out")
        size = Slice("width", -1, 12, out.entries, "size")
        group = group.with_slices([*group.slices, size])
        groups = GroupTable([group, *(x for x in groups if x.name != "first")], (), groups.layers)
    assert any(each.role == "size" for each in group.slices)
    plan = plan_by("l1", Evidence(model, groups))
    policy = groups.canonical(Policy.from_keep_ratios({"first": 0.5}))
    cut = Cut(model, groups, policy, plan.kept_entries(policy))
    return Candidate(plan.carve(policy).eval(), example, cut=cut)


@pytest.mark.parametrize("kind", CHANNEL_TOOLS)
def test_numbers_that_modules_remember_must_not_matter(
    kind: type[PolicyExporter], tmp_path: Path
) -> None:
    kind().export(remembering(is_used=False), tmp_path / "idle")
    with pytest.raises(ExportError, match=r"group 'first': modules remember .* \(width\)"):
        kind().export(remembering(is_used=True), tmp_path / "used")


def test_tied_layers_share_a_dependency_group(digits: Candidate, tmp_path: Path) -> None:
    path = Nni().export(digits, tmp_path / "knee.json").path
    config = json.loads(path.read_text())["config_list"]
    assert config[0]["op_names"] == ["stem", "block.conv2"]
    assert config[0]["dependency_group_id"] == "stem"
    assert [each["op_names"] for each in config[1:]] == [
        ["block.conv1"],
        ["down"],
        ["conv"],
        ["hidden"],
    ]
    assert all("dependency_group_id" not in each for each in config[1:])
    assert all(each["granularity"] == "out_channel" for each in config)
    assert all(int(32 * each["sparse_ratio"]) == 13 for each in config)
    assert "nni" not in sys.modules


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"sparse_ratio": 0.41', b'"sparse_ratio": 0.51'),
        (b'"sparse_ratio": 0.41', b'"sparse_ratio": 1   '),
        (b'"block.conv2"', b'"block.conv9"'),
        (b'"dependency_group_id": "stem"', b'"granularity": "out_channel"'),
        (b'"granularity"', b'"granulated_"'),
        (b'"config_list"', b'"config_tsil"'),
    ],
)
def test_configs_of_another_policy_are_refused(
    old: bytes, new: bytes, digits: Candidate, tmp_path: Path
) -> None:
    path = Nni().export(digits, tmp_path / "knee.json").path
    reseal(path, lambda content: content.replace(old, new))
    with pytest.raises(ExportError, match=r"NNI|not that of the policy"):
        Nni().check(digits, path)
