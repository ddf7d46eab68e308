"""On real images: whole numbers are as accurate as the network that PyTorch rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria.l1 import L1
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model
from autoprune.policy import LayerDecision, Policy
from autoprune.runtimes.catalog import create
from autoprune.runtimes.processor import saturates
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import score_groups
from autoprune.surgery.folding import fold
from autoprune.surgery.plan import Plan
from autoprune.tracing.discovery import discover
from tests.quantised import every, quantised
from tests.unit.test_models_cifar_resnet import CHECKPOINTS, IMAGES, needs

IMAGES_JUDGED = 2000
POINTS = 0.005


@pytest.fixture(scope="module")
def images() -> dict[str, Tensor]:
    with np.load(IMAGES) as file:
        train, test = file["x_train"][:500], file["x_test"][:IMAGES_JUDGED]
        labels = torch.from_numpy(file["y_test"][:IMAGES_JUDGED].astype(np.int64)).flatten()
    mean, deviation = (
        torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def normalised(pixels: np.ndarray) -> Tensor:
        return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / deviation

    return {"train": normalised(train), "test": normalised(test), "labels": labels}


def candidate(keep_ratio: float, train: Tensor) -> nn.Module:
    """Return the pretrained network, carved, with its statistics gathered anew, and folded."""
    spec = ModelSpec(name="cifar_resnet20", checkpoint=str(CHECKPOINTS[20]))
    network = build_model(spec, 10, (3, 32, 32)).eval().requires_grad_(False)
    graph = discover(network, train[:2])
    if keep_ratio < 1.0:
        inner = {x.name: keep_ratio for x in graph.groups.prunable if ".conv1" in x.name}
        plan = Plan(
            network,
            graph.groups,
            {"l1": score_groups(L1(), Evidence(network, graph.groups)).scores},
        )
        network = plan.carve(graph.groups.canonical(Policy.from_keep_ratios(inner)))
        for each in network.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.reset_running_stats()
                each.momentum = None  # type: ignore[assignment]
        with torch.no_grad():
            network.train()(train)
    return fold(network.eval(), graph.foldable)


@needs(IMAGES, CHECKPOINTS[20])
@pytest.mark.parametrize(
    ("name", "bits", "keep_ratio"),
    [
        pytest.param("onnx", 8, 1.0, marks=pytest.mark.slow),
        ("onnx", 8, 0.7),
        pytest.param("openvino", 7, 0.7, marks=pytest.mark.slow),
        pytest.param(
            "openvino",
            8,
            1.0,
            marks=[pytest.mark.slow, pytest.mark.skipif(saturates(), reason="saturates")],
        ),
    ],
)
def test_the_same_accuracy_on_real_images(
    name: str, bits: int, keep_ratio: float, images: dict[str, Tensor]
) -> None:
    network = candidate(keep_ratio, images["train"])
    made = quantised(network, images["train"], every(network, LayerDecision(bits, 8)))
    labels = images["labels"]

    def accuracy(logits: Tensor) -> float:
        return float((logits.argmax(dim=1) == labels).float().mean())

    with torch.inference_mode():
        expected = torch.cat([made(batch) for batch in images["test"].split(250)])
    assert accuracy(expected) > 0.7
    with create(name).build(made, images["test"][:50], images["train"]) as runner:
        logits = runner.logits(images["test"])
    assert abs(accuracy(logits) - accuracy(expected)) <= POINTS
    assert float((logits.argmax(1) == expected.argmax(1)).float().mean()) > 0.97
    assert runner.artifact is not None
    # 269,722 bytes of kernels and biases, and what a graph of 20 layers takes beside them.
    assert len(runner.artifact) < 340_000
