"""Networks for 32x32 images, written out here: each has a connection of its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every reader knows)

from autoprune.models.cifar_resnet import CifarResNet
from tests.zoo.base import CLASSES, Entry, images, made


class Lambda(nn.Module):
    """A module that holds nothing but a Python function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LambdaBlock(nn.Module):
    """A basic block; where it widens, a closure over its width pads the shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1:
            sides = (0, 0, 0, 0, planes // 4, planes // 4)
            self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], sides, "constant", 0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return F.relu(y)


class LambdaResNet(nn.Module):
    """ResNet20 whose option-A shortcuts hide in lambdas."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        planes = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        self.blocks = nn.Sequential(*(LambdaBlock(a, b, b // a) for a, b in pairwise(planes)))
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        x = F.avg_pool2d(x, x.size()[3])
        outputs: Tensor = self.linear(x.view(x.size(0), -1))
        return outputs


class DualPathBlock(nn.Module):
    """Adds the first channels of what it computes, and appends the others."""

    def __init__(self, inputs: int, width: int, added: int, dense: int, *, stride: int) -> None:
        super().__init__()
        self.added = added
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, added + dense, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(added + dense)
        self.shortcut: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        x = self.shortcut(x)
        d = self.added
        return F.relu(torch.cat([x[:, :d] + y[:, :d], x[:, d:], y[:, d:]], dim=1))


class DualPath(nn.Module):
    """DPN for CIFAR: residual and dense paths side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.channels = 32
        stages = ((32, 48, 8, 2, 1), (48, 64, 16, 3, 2), (64, 96, 16, 2, 2))
        self.stages = nn.Sequential(*(self._stage(*stage) for stage in stages))
        self.out = nn.Linear(self.channels, CLASSES)

    def _stage(self, width: int, added: int, dense: int, blocks: int, stride: int) -> nn.Module:
        layers: list[nn.Module] = []
        for index in range(blocks):
            step = stride if index == 0 else 1
            block = DualPathBlock(self.channels, width, added, dense, stride=step)
            if index == 0:
                block.shortcut = nn.Sequential(
                    nn.Conv2d(self.channels, added + dense, 1, stride, bias=False),
                    nn.BatchNorm2d(added + dense),
                )
            layers.append(block)
            self.channels = added + (index + 2) * dense
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.norm(self.stem(x))))
        outputs: Tensor = self.out(F.avg_pool2d(x, 8).flatten(1))
        return outputs


class Shuffle(nn.Module):
    """Deals the channels of every group out over all groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolutions around a depthwise one; with a stride it concatenates."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        width = outputs // 4
        computed = outputs if stride == 1 else outputs - inputs
        # The stem has too few channels to be split.
        first = 1 if inputs == ShuffleNet.STEM else groups
        self.conv1 = nn.Conv2d(inputs, width, 1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.shuffle = Shuffle(first)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, computed, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(computed)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(F.relu(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        if self.stride == 1:
            return F.relu(y + x)
        return F.relu(torch.cat([y, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))


class ShuffleNet(nn.Module):
    """ShuffleNet, first version, with two groups."""

    STEM = 24

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, self.STEM, 1, bias=False)
        self.norm = nn.BatchNorm2d(self.STEM)
        channels = self.STEM
        units: list[nn.Module] = []
        for outputs, repeats in ((48, 2), (96, 3), (192, 2)):
            for index in range(repeats):
                units.append(ShuffleUnit(channels, outputs, 1 if index else 2, groups))
                channels = outputs
        self.units = nn.Sequential(*units)
        self.out = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.units(F.relu(self.norm(self.stem(x))))
        outputs: Tensor = self.out(F.avg_pool2d(x, 4).flatten(1))
        return outputs


class Separable(nn.Module):
    """A depthwise convolution, of two filters a channel where the width doubles."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.norm(self.conv(x))
        return outputs


class Pool(nn.Module):
    """A max pool, followed by a 1x1 convolution where it halves the image."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.project: nn.Module = nn.Identity()
        if stride == 2:
            self.project = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.project(F.max_pool2d(x, 3, stride=self.stride, padding=1))
        return outputs


class SumCell(nn.Module):
    """PNASNet's cell A: a separable convolution and a pool, summed."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.separable = Separable(inputs, outputs, 7, stride)
        self.pool = Pool(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.separable(x) + self.pool(x))


class ConcatCell(nn.Module):
    """PNASNet's cell B: two sums side by side, mixed by a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.wide = Separable(inputs, outputs, 7, stride)
        self.narrow = Separable(inputs, outputs, 3, stride)
        self.middle = Separable(inputs, outputs, 5, stride)
        self.pool = Pool(inputs, outputs, stride)
        self.mix = nn.Conv2d(2 * outputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.wide(x) + self.narrow(x))
        right = F.relu(self.pool(x) + self.middle(x))
        return F.relu(self.norm(self.mix(torch.cat([left, right], dim=1))))


class CellNet(nn.Module):
    """PNASNet for CIFAR, built of one kind of cell."""

    def __init__(self, cell: Callable[..., nn.Module], width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.cells = nn.Sequential(
            cell(width, width),
            cell(width, width),
            cell(width, 2 * width, stride=2),
            cell(2 * width, 2 * width),
            cell(2 * width, 4 * width, stride=2),
            cell(4 * width, 4 * width),
        )
        self.out = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cells(F.relu(self.norm(self.stem(x))))
        outputs: Tensor = self.out(F.avg_pool2d(x, 8).flatten(1))
        return outputs


def _entry(name: str, network: Callable[[], nn.Module]) -> Entry:
    return made(name, "cifar", network, images(32))


ENTRIES = (
    _entry("cifar_resnet20", lambda: CifarResNet(20)),
    _entry("cifar_resnet56", lambda: CifarResNet(56)),
    _entry("cifar_resnet20_lambda", LambdaResNet),
    _entry("cifar_dpn", DualPath),
    _entry("cifar_shufflenet", ShuffleNet),
    _entry("cifar_pnasnet_a", lambda: CellNet(SumCell, 24)),
    _entry("cifar_pnasnet_b", lambda: CellNet(ConcatCell, 16)),
)
