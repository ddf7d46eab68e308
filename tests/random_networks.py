"""Small image networks put together from lists of steps, and how to draw such lists.

A step is a tuple of its kind, a key of `STEPS`, and numbers or further lists of steps, so a
network that fails a test shrinks to few and small steps. Steps keep the size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.base import enliven

Step = tuple[Any, ...]

SIDE = 4
"""Pixels along each side of the image."""


class _Step(nn.Module):
    """A step that reads `read` channels and makes `made`."""

    made: int


class Plain(_Step):
    def __init__(self, layer: nn.Module, made: int) -> None:
        super().__init__()
        self.layer, self.made = layer, made

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def blocks(read: int) -> int:
    return 2 if read % 2 == 0 else 1


def conv(read: int, made: int, kernel: int = 1, bias: bool = True) -> Plain:
    return Plain(nn.Conv2d(read, made, kernel, padding=kernel // 2, bias=bias), made)


def depthwise(read: int, times: int) -> Plain:
    made = times * read
    return Plain(nn.Conv2d(read, made, 3, padding=1, groups=read), made)


def grouped(read: int, made: int) -> Plain:
    made += made % 2
    return Plain(nn.Conv2d(read, made, 1, groups=blocks(read)), made)


def up(read: int, made: int, stride: int) -> Plain:
    if stride == 1:
        return Plain(nn.ConvTranspose2d(read, made, 3, padding=1), made)
    wide = nn.ConvTranspose2d(read, made, 2, stride=2)
    return Plain(nn.Sequential(wide, nn.AvgPool2d(2)), made)


class Residual(_Step):
    def __init__(self, read: int, steps: Sequence[Step]) -> None:
        super().__init__()
        self.body, self.made = body(read, steps), read
        made = self.body[-1].made if steps else read
        if made != read:
            self.body.append(conv(made, read))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Concat(_Step):
    def __init__(self, read: int, left: Sequence[Step], right: Sequence[Step]) -> None:
        super().__init__()
        self.left, self.right = body(read, left), body(read, right)
        sides = ((left, self.left), (right, self.right))
        self.made = sum(each[-1].made if steps else read for steps, each in sides)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], dim=1)


class Gated(_Step):
    """Two halves, of which one gates the other."""

    def __init__(self, read: int, made: int) -> None:
        super().__init__()
        self.both, self.made = nn.Conv2d(read, 2 * made, 1), made

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=1)
        return value * torch.sigmoid(gate)


class Halves(_Step):
    """Two halves with a layer each."""

    def __init__(self, read: int, made: int) -> None:
        super().__init__()
        self.both, self.made = nn.Conv2d(read, 2 * made, 1), 2 + made
        self.one, self.other = nn.Conv2d(made, 2, 1), nn.Conv2d(made, made, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.both(x).chunk(2, dim=1)
        return torch.cat([self.one(one), torch.relu(self.other(other))], dim=1)


class Sliced(_Step):
    """The first channels go on as they are, the others through a layer."""

    def __init__(self, read: int, first: int, made: int) -> None:
        super().__init__()
        self.first = min(first, read - 1)
        self.layer, self.made = nn.Conv2d(read - self.first, made, 1), self.first + made

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : self.first], self.layer(x[:, self.first :])], dim=1)


class Split(_Step):
    """Parts of unequal length, with a layer for each."""

    def __init__(self, read: int, one: int, other: int) -> None:
        super().__init__()
        self.sizes, self.made = (one, other), other + 2
        self.all = nn.Conv2d(read, one + other, 1)
        self.one, self.other = nn.Conv2d(one, 2, 1), nn.BatchNorm2d(other)

    def forward(self, x: Tensor) -> Tensor:
        one, other = torch.split(self.all(x), self.sizes, dim=1)
        return torch.cat([torch.relu(self.other(other)), self.one(one)], dim=1)


class Squeezed(_Step):
    """A squeeze-and-excitation gate."""

    def __init__(self, read: int, inner: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(read, inner, 1), nn.Conv2d(inner, read, 1)
        self.made = read

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.excite(gate))


class Shuffled(_Step):
    """A channel shuffle."""

    def __init__(self, read: int) -> None:
        super().__init__()
        self.blocks, self.made = blocks(read), read

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        x = x.view(count, self.blocks, channels // self.blocks, height, width)
        return x.transpose(1, 2).reshape(count, channels, height, width)


class Padded(_Step):
    """A shortcut whose missing channels are zeros."""

    def __init__(self, read: int, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after, self.made = before, after, read + before + after
        self.layer = nn.Conv2d(read, self.made, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.pad(x, (0, 0, 0, 0, self.before, self.after))
        return torch.relu(self.layer(x) + shortcut)


class ChannelNorm(_Step):
    def __init__(self, read: int) -> None:
        super().__init__()
        self.norm, self.made = nn.LayerNorm(read), read

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(_Step):
    """PyTorch's attention over pixels, with a shortcut."""

    def __init__(self, read: int, batch_first: bool) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(read, blocks(read), batch_first=batch_first)
        self.made = read

    def forward(self, x: Tensor) -> Tensor:
        order = (0, 2, 1) if self.mix.batch_first else (2, 0, 1)
        back = (0, 2, 1) if self.mix.batch_first else (1, 2, 0)
        tokens = x.flatten(2).permute(order)
        mixed, _ = self.mix(tokens, tokens, tokens, need_weights=False)
        return x + mixed.permute(back).reshape(x.shape)


class OwnAttention(_Step):
    """Attention written by hand, with a shortcut; kernels fused or not."""

    def __init__(self, read: int, heads: int, width: int, form: str) -> None:
        super().__init__()
        self.heads, self.width, self.form, self.made = heads, width, form, read
        self.scale, inner = width**-0.5, heads * width
        self.qkv = nn.Linear(read, 3 * inner)
        self.q, self.k, self.v = (nn.Linear(read, inner) for _ in "qkv")
        for name in ["qkv"] if form == "apart" else "qkv":
            delattr(self, name)
        self.out = nn.Linear(inner, read)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        count, length, _ = tokens.shape
        if self.form == "fused":
            made = self.qkv(tokens).reshape(count, length, 3, self.heads, self.width)
            q, k, v = made.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            several = self.qkv(tokens).chunk(3, dim=-1) if self.form == "chunked" else None
            several = several or [layer(tokens) for layer in (self.q, self.k, self.v)]
            q, k, v = (
                each.reshape(count, length, self.heads, -1).transpose(1, 2) for each in several
            )
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)


class Twice(_Step):
    """One layer that runs two times."""

    def __init__(self, read: int, kernel: int) -> None:
        super().__init__()
        self.layer, self.made = conv(read, read, kernel), read

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Folded(_Step):
    """Pixels become channels and channels become pixels."""

    def __init__(self, read: int, made: int) -> None:
        super().__init__()
        self.down, self.up, self.made = nn.PixelUnshuffle(2), nn.PixelShuffle(2), made
        self.layer = nn.Conv2d(4 * read, 4 * made, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.layer(self.down(x)))


class Recurrent(_Step):
    """A recurrent network from pixel to pixel."""

    def __init__(self, read: int, hidden: int, kind: str, bidirectional: bool) -> None:
        super().__init__()
        made = getattr(nn, kind)
        self.cells = made(read, hidden, batch_first=True, bidirectional=bidirectional)
        self.made = hidden * (2 if bidirectional else 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens, _ = self.cells(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class Weighed(_Step):
    """Channels that are weighed against each other."""

    def __init__(self, read: int) -> None:
        super().__init__()
        self.made = read

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) * x.softmax(1)


STEPS = {
    "relu": lambda read: Plain(nn.ReLU(), read),
    "sigmoid": lambda read: Plain(nn.Sigmoid(), read),
    "prelu": lambda read: Plain(nn.PReLU(read), read),
    "batch norm": lambda read: Plain(nn.BatchNorm2d(read), read),
    "group norm": lambda read: Plain(nn.GroupNorm(blocks(read), read), read),
    "channel norm": ChannelNorm,
    "conv": conv,
    "depthwise": depthwise,
    "grouped": grouped,
    "up": up,
    "residual": Residual,
    "concat": Concat,
    "gated": Gated,
    "halves": Halves,
    "sliced": Sliced,
    "split": Split,
    "squeezed": Squeezed,
    "shuffled": Shuffled,
    "padded": Padded,
    "attention": Attention,
    "own attention": OwnAttention,
    "twice": Twice,
    "folded": Folded,
    "recurrent": Recurrent,
    "weighed": Weighed,
}


def body(read: int, steps: Sequence[Step]) -> nn.Sequential:
    """Return modules for the steps, the first of which reads `read` channels."""
    modules: list[Any] = []
    for kind, *numbers in steps:
        modules.append(STEPS[kind](read, *numbers))
        read = modules[-1].made
    return nn.Sequential(*modules)


class Random(nn.Module):
    """A stem, the steps, and a linear layer behind a flatten or a global mean."""

    def __init__(self, steps: Sequence[Step], flat: bool) -> None:
        super().__init__()
        self.stem, self.flat = nn.Conv2d(3, 4, 3, padding=1), flat
        self.body = body(4, steps)
        made = self.body[-1].made if steps else 4
        self.out = nn.Linear(made * SIDE * SIDE if flat else made, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        return self.out(x.flatten(1) if self.flat else x.mean((2, 3)))


def built(steps: Sequence[Step], flat: bool) -> tuple[nn.Module, Tensor]:
    """Return the lively network in double precision and eval mode, and two inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Random(steps, flat).eval()
    enliven(network, seed=1)
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return network.double(), image


_MADE = st.integers(1, 6)
_FORMS = st.sampled_from(["apart", "chunked", "fused"])

PLAIN = st.one_of(
    st.just(("relu",)),
    st.just(("sigmoid",)),
    st.just(("prelu",)),
    st.just(("batch norm",)),
    st.tuples(st.just("conv"), _MADE, st.sampled_from([1, 3]), st.booleans()),
)

BLOCKS = st.one_of(
    st.just(("group norm",)),
    st.just(("channel norm",)),
    st.just(("shuffled",)),
    st.tuples(st.just("depthwise"), st.integers(1, 2)),
    st.tuples(st.just("grouped"), st.integers(2, 6)),
    st.tuples(st.just("up"), _MADE, st.integers(1, 2)),
    st.tuples(st.just("gated"), _MADE),
    st.tuples(st.just("halves"), _MADE),
    st.tuples(st.just("sliced"), st.integers(1, 3), _MADE),
    st.tuples(st.just("split"), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.just("squeezed"), _MADE),
    st.tuples(st.just("padded"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.just("attention"), st.booleans()),
    st.tuples(st.just("own attention"), st.integers(1, 3), st.integers(1, 3), _FORMS),
    st.tuples(st.just("twice"), st.sampled_from([1, 3])),
    st.tuples(st.just("folded"), _MADE),
    st.tuples(st.just("recurrent"), _MADE, st.sampled_from(["LSTM", "GRU", "RNN"]), st.booleans()),
    st.just(("weighed",)),
)

_INNER = st.lists(st.one_of(PLAIN, BLOCKS), min_size=1, max_size=2)

NESTED = st.one_of(
    st.tuples(st.just("residual"), _INNER),
    st.tuples(st.just("concat"), st.lists(st.one_of(PLAIN, BLOCKS), max_size=2), _INNER),
)

STEP_LISTS = st.lists(st.one_of(PLAIN, BLOCKS, BLOCKS, NESTED), max_size=5)
