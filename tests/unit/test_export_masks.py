"""Masks for torch.nn.utils.prune: which entries they keep, and masks that are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate, Cut
from autoprune.errors import ExportError
from autoprune.exporters import masks_exporter
from autoprune.exporters.masks_exporter import Masks
from tests import exporting
from tests.handing_over import channels_only, halved


@pytest.fixture(scope="module")
def digits() -> Candidate:
    return channels_only("digits_cnn")


def test_masks_are_the_kept_entries(digits: Candidate, tmp_path: Path) -> None:
    assert digits.cut is not None
    path = Masks().export(digits, tmp_path / "knee.safetensors").path
    masks = load_file(path)
    dense = dict(digits.cut.dense.named_parameters())
    pruned = dict(digits.network.named_parameters())
    assert set(masks) == {x for x in dense if dense[x].shape != pruned[x].shape}
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        # Nothing was repaired, so what stays is the pruned network's own.
        assert torch.equal(dense[name][mask], pruned[name].flatten())


def test_the_header_has_the_recipe_and_the_norms(tmp_path: Path) -> None:
    path = Masks().export(exporting.pruned("vit"), tmp_path / "knee.safetensors").path
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata()
    assert header["recipe"] == masks_exporter.RECIPE
    assert len(header["recipe"].splitlines()) == 5
    norms = json.loads(header["normalised_without"])
    assert len(norms) == 7
    assert {"encoder.ln", "encoder.layers.encoder_layer_2.ln_1"} <= set(norms)
    documented = re.sub(r"\s+", " ", Masks.__doc__ or "")
    assert re.sub(r"\s+", " ", masks_exporter.RECIPE) in documented


@pytest.mark.parametrize("family", ["digits_cnn", "vit"])
def test_masks_of_other_units_are_noticed(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = masks_exporter._masks
    candidate = channels_only(family)
    layer = "hidden" if family == "digits_cnn" else "encoder.layers.encoder_layer_1.mlp.0"
    monkeypatch.setattr(
        masks_exporter,
        "_masks",
        # As many entries, of other units.
        lambda cut: {
            x: m.roll(1, 0) if x == f"{layer}.weight" else m for x, m in written(cut).items()
        },
    )
    with pytest.raises(ExportError, match="outputs with these masks differ"):
        Masks().export(candidate, tmp_path / "knee")


@pytest.mark.parametrize("change", ["missing", "foreign", "dtype", "shape"])
def test_masks_that_do_not_fit_are_refused(
    change: str, digits: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = masks_exporter._masks

    def changed(cut: Cut) -> dict[str, Tensor]:
        masks = written(cut)
        mask = masks.pop("hidden.bias")
        new: dict[str, dict[str, Tensor]] = {
            "missing": {},
            "foreign": {"hidden.offset": mask},
            "dtype": {"hidden.bias": mask.float()},
            "shape": {"hidden.bias": mask[:, None]},
        }
        return masks | new[change]

    monkeypatch.setattr(masks_exporter, "_masks", changed)
    with pytest.raises(ExportError, match=r"hidden\.(bias|offset)"):
        Masks().export(digits, tmp_path / "knee")


def test_parametrized_layers_are_refused(tmp_path: Path) -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 8))
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ExportError, match="layer '0' is parametrized"):
        Masks().export(halved(model, torch.randn(2, 5)), tmp_path / "knee")


class Attention(nn.Module):
    """Scores are divided by the root of the width that there is, so carving makes up for it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(12, 16) for _ in range(3))
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each(x).unflatten(-1, (2, -1)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        heads = nn.functional.scaled_dot_product_attention(3 * q, 3 * k, v)
        return self.out(heads.transpose(1, 2).flatten(2)).mean(1)


def test_masked_scores_of_attention_are_those_of_the_carved_network(tmp_path: Path) -> None:
    candidate = halved(Attention(), torch.randn(2, 7, 12))
    assert candidate.cut is not None
    tempered = [each.name for each in candidate.cut.groups.prunable if each.tempered]
    assert tempered == ["q:width"]
    assert Masks().export(candidate, tmp_path / "knee").max_error < 1e-5
