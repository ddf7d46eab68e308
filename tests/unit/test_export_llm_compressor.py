"""Recipes of bits for LLM Compressor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from autoprune.errors import ExportError
from autoprune.exporters.llm_compressor_exporter import LlmCompressor
from autoprune.policy import LayerDecision
from tests import exporting
from tests.handing_over import bits_only, reseal, with_layers


def test_bits_are_grouped(tmp_path: Path) -> None:
    path = LlmCompressor().export(bits_only(), tmp_path / "knee.yaml").path
    modifier = yaml.safe_load(path.read_text())["quant_stage"]["quant_modifiers"]
    inputs = {"type": "int", "symmetric": False, "strategy": "tensor", "dynamic": False}
    kernels = {"type": "int", "symmetric": True, "strategy": "channel"}
    assert modifier["QuantizationModifier"]["config_groups"] == {
        f"w{bits}a8": {
            "targets": [layer],
            "weights": {"num_bits": bits, **kernels},
            "input_activations": {"num_bits": 8, **inputs},
        }
        for bits, layer in ((4, "hidden"), (8, "output"))
    }


def test_kernels_alone_have_no_scheme_for_inputs(tmp_path: Path) -> None:
    candidate = with_layers(bits_only(), {"hidden": LayerDecision(3, 32)})
    path = LlmCompressor().export(candidate, tmp_path / "knee.yaml").path
    assert "input_activations" not in path.read_text()


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ({"conv": LayerDecision(8, 8)}, "layer 'conv': of type Conv2d"),
        ({"hidden": LayerDecision(16, 16)}, "layer 'hidden': half precision"),
        ({"hidden": LayerDecision(8, 16)}, "layer 'hidden': half precision"),
        ({"hidden": LayerDecision(8, 8, rank=4)}, "layer 'hidden': it has rank 4"),
        ({"hidden": LayerDecision(8, 8, keep_ratio=0.5)}, "keeps some of its weights"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused(
    layers: dict[str, LayerDecision], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=re.escape(named)):
        LlmCompressor().export(with_layers(bits_only(), layers), tmp_path / "knee")


def test_a_recipe_knows_no_widths(tmp_path: Path) -> None:
    candidate = exporting.pruned("cifar_resnet20", dropped=1)
    with pytest.raises(ExportError, match=r"group 'conv1' loses units.*block 'layer1") as caught:
        LlmCompressor().export(candidate, tmp_path / "knee")
    assert "--to onnx_int8" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"num_bits: 4", b"num_bits: 8"),
        (b"- hidden", b"- output"),
        (b"- hidden", b"- Linear"),
        (b"- hidden", b"- hiddem"),
        (b"symmetric: false", b"symmetric: true "),
        (b"config_groups", b"config_gruops"),
        (b"quant_stage:", b"quant_stage:["),
    ],
)
def test_recipes_of_another_policy_are_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = LlmCompressor().export(bits_only(), tmp_path / "knee.yaml").path
    reseal(path, lambda content: content.replace(old, new))
    with pytest.raises(ExportError, match=r"knee\.yaml"):
        LlmCompressor().check(bits_only(), path)


def test_targets_may_be_types_of_layers(tmp_path: Path) -> None:
    path = LlmCompressor().export(bits_only(), tmp_path / "knee.yaml").path
    reseal(path, lambda content: re.sub(rb"( +- )hidden\n", rb"\1hidden\n\1Linear\n", content))
    # The tool would give the scheme to every linear layer.
    with pytest.raises(ExportError, match="gives 'output'"):
        LlmCompressor().check(bits_only(), path)
