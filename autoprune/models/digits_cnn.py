"""A small network for 8x8 images that trains in seconds: for demos and tests."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every reader knows)

IMAGE_SIZE = 8


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions of equal width, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        outputs = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(inputs + self.bn2(self.conv2(outputs)))


class DigitsCnn(nn.Module):
    """A stem, a residual block, two more convolutions, and a hidden linear layer.

    Everything but the output can be pruned: the stem together with the block's sum, the
    inside of the block, either later convolution, and the hidden layer.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(32)
        self.block = ResidualBlock(32)
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.down_bn = nn.BatchNorm2d(64)
        self.conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.conv_bn = nn.BatchNorm2d(64)
        self.hidden = nn.Linear(64 * (IMAGE_SIZE // 2) ** 2, 64)
        self.output = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, in_channels, 8, 8) to logits (n, num_classes)."""
        features = self.block(F.relu(self.stem_bn(self.stem(images))))
        features = F.relu(self.down_bn(self.down(features)))
        features = F.relu(self.conv_bn(self.conv(features)))
        logits: Tensor = self.output(F.relu(self.hidden(features.flatten(1))))
        return logits
