"""Residual networks for 32x32 images, with shortcuts that have no parameters.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with
option-A shortcuts. Layers are named as in akamaster/pytorch_resnet_cifar10, so its
published checkpoints load.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every reader knows)

DEPTHS = (20, 32, 44, 56, 110)


class PaddedShortcut(nn.Module):
    """The option-A shortcut: every second pixel, zero channels added on both sides.

    It maps (n, in_channels, h, w) to (n, out_channels, h / 2, w / 2) rounded up, and has
    no parameters. How many channels are added `before` and `after` follows pruning.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the subsampled and padded inputs."""
        return F.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which a shortcut leads.

    A block that changes the number of channels also halves height and width.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        is_widening = in_channels != out_channels
        stride = 2 if is_widening else 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = PaddedShortcut(in_channels, out_channels) if is_widening else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h', w')."""
        outputs = F.relu(self.bn1(self.conv1(inputs)))
        outputs = self.bn2(self.conv2(outputs))
        return F.relu(outputs + self.shortcut(inputs))


class CifarResNet(nn.Module):
    """A residual network of `depth` = 6 n + 2 layers in three stages of n blocks."""

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    rest = (BasicBlock(out_channels, out_channels) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(in_channels, out_channels), *rest)
