"""Whatever carving put into a network leaves as ONNX, and comes back from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate
from autoprune.exporters.onnx_exporter import Onnx
from autoprune.exporters.torch_exporter import Torch
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.rebuild import load, shrunk
from autoprune.surgery.attention import SlimAttention
from autoprune.surgery.bridge import Bridge
from autoprune.surgery.depth import Skipped
from autoprune.surgery.proof import prove
from autoprune.tracing.discovery import discover
from tests.exporting import provenance
from tests.zoo import entry

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def vit() -> nn.Module:
    return entry("vit").build()[0]


def lambda_resnet() -> nn.Module:
    return entry("cifar_resnet20_lambda").build()[0]


class Several(nn.Module):
    """Returns more than its logits, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=4)
        self.out = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.body(x)).mean((2, 3))
        return {"features": features, "logits": self.out(features)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "kind", "depth"),
    [
        ("vit", SlimAttention, False),
        pytest.param("vit", Skipped, True, marks=pytest.mark.slow),
        pytest.param("lambda_resnet", Bridge, False, marks=pytest.mark.slow),
        ("Several", nn.Linear, False),
    ],
)
def test_carved_networks_are_exported_and_loaded(
    make: str, kind: type[nn.Module], depth: bool, tmp_path: Path
) -> None:
    spec = ModelSpec.model_validate({"import": f"{__name__}:{make}"})
    model = build_model(spec, 10, (3, 32, 32))
    groups = discover(model, IMAGES).groups
    groups = prove(model, groups, IMAGES[:2]).groups
    dropped = frozenset(block.name for block in groups.droppable[:2]) if depth else frozenset()
    ratios = {group.name: 0.6 for group in groups.prunable}
    policy = groups.canonical(replace(Policy.from_keep_ratios(ratios), dropped=dropped))
    network = shrunk(model, groups, policy).eval().requires_grad_(False)
    assert any(type(module) is kind for module in network.modules())
    candidate = Candidate(network, IMAGES, provenance(spec, groups, policy, (3, 32, 32)))
    # Both read their file back and compare; they raise where outputs differ.
    Onnx().export(candidate, tmp_path / "network.onnx")
    Torch().export(candidate, tmp_path / "network.safetensors")
    again = load(tmp_path / "network.safetensors")
    assert torch.equal(again(IMAGES), network(IMAGES))
    assert again(IMAGES).shape == (4, 10)
