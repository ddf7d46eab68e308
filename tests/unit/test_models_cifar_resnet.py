"""The CIFAR ResNets are those of akamaster/pytorch_resnet_cifar10."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune.data.cifar10 import Cifar10
from autoprune.data.dataset import Dataset
from autoprune.job.spec import ModelSpec, SplitSpec
from autoprune.models.catalog import build_model
from autoprune.models.cifar_resnet import BasicBlock, CifarResNet, PaddedShortcut

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("AUTOPRUNE_DATA", SHARED))
CHECKPOINTS = {20: DATA / "resnet20-12fca82f.th", 56: DATA / "resnet56-4bfd9763.th"}
IMAGES = DATA / "cifar10.npz"

torch.set_num_threads(1)


def needs(*paths: Path) -> pytest.MarkDecorator:
    missing = [str(path) for path in paths if not path.is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"missing: {', '.join(missing)}")


@pytest.mark.parametrize(
    ("depth", "params"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_sizes_are_the_published_ones(depth: int, params: int) -> None:
    model = CifarResNet(depth)
    assert sum(each.numel() for each in model.parameters()) == params
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    assert len(convolutions) == depth - 1


def test_the_shortcut_drops_pixels_and_pads_channels_on_both_sides() -> None:
    inputs = torch.arange(18.0).reshape(1, 2, 3, 3) + 1
    expected = torch.zeros(1, 4, 2, 2)
    expected[0, 1] = torch.tensor([[1.0, 3.0], [7.0, 9.0]])
    expected[0, 2] = torch.tensor([[10.0, 12.0], [16.0, 18.0]])
    assert torch.equal(PaddedShortcut(2, 4)(inputs), expected)


@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 8)])
def test_a_block_adds_what_its_shortcut_returns(before: int, after: int) -> None:
    class Hundred(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.full((), 100.0)

    block = BasicBlock(before, after).eval()
    inputs = torch.rand(2, before, 6, 6)
    with torch.no_grad():
        inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(inputs)))))
        assert torch.allclose(block(inputs), torch.relu(inner + block.shortcut(inputs)))
        block.add_module("shortcut", Hundred())
        assert torch.allclose(block(inputs), torch.relu(inner + 100.0))


def test_a_copy_computes_the_same() -> None:
    model = CifarResNet(20, num_classes=7, in_channels=1).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, 7)
        assert torch.equal(copy.deepcopy(model)(images), logits)


@pytest.mark.parametrize(
    "depth", [pytest.param(depth, marks=needs(path)) for depth, path in CHECKPOINTS.items()]
)
def test_keys_and_shapes_match_the_published_checkpoints(depth: int) -> None:
    state = torch.load(CHECKPOINTS[depth], map_location="cpu", weights_only=True)["state_dict"]
    published = {name.removeprefix("module."): value.shape for name, value in state.items()}
    ours = {
        name: value.shape
        for name, value in CifarResNet(depth).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert ours == published
    assert list(ours) == list(published)


@needs(IMAGES, CHECKPOINTS[20])
def test_resnet20_is_as_accurate_as_published() -> None:
    raw = Cifar10(path=str(IMAGES)).load()
    # Only for its `normalise`: the images are the first of the test part, in file order.
    dataset = Dataset.from_raw(raw, SplitSpec(search=10, report=10))
    spec = ModelSpec(name="cifar_resnet20", checkpoint=str(CHECKPOINTS[20]))
    model = build_model(spec, dataset.num_classes, dataset.input_shape)
    images = torch.from_numpy(raw.test_inputs[:1000]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(raw.test_labels[:1000])
    with torch.inference_mode():
        logits = torch.cat([model(dataset.normalise(each)) for each in images.split(250)])
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(0.915, abs=0.003)
