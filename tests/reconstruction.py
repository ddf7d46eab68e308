"""Networks for reconstruction, and its slow twin: explicit least squares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.policy import Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.surgery.plan import Plan
from autoprune.surgery.proof import prove
from autoprune.surgery.reconstruct import Moments, reconstruct
from autoprune.tracing.discovery import discover

ALL_POSITIONS = 10_000


class Attention(nn.Module):
    """Self-attention written out; what `mix` reads are heads times places within them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 3, 4
        self.patch = nn.Conv2d(3, 6, 2, 2)
        self.qkv = nn.ModuleList(nn.Linear(6, 12) for _ in range(3))
        self.mix = nn.Linear(12, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        sizes = (self.heads, self.width)
        q, k, v = (each(x).unflatten(-1, sizes).transpose(1, 2) for each in self.qkv)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(torch.tanh(self.mix(mixed.transpose(1, 2).flatten(2))).mean(1))


class Twice(nn.Module):
    """A layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 5, 3)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.out((torch.relu(self.b(x)) + self.b(input=torch.tanh(x))).mean((2, 3)))


class Squashed(nn.Module):
    """What a kernel may be made from: its tanh."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Squashing(nn.Conv2d):
    """A convolution that does not compute with its weight as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, torch.tanh(self.weight), self.bias)


class Unsolvable(nn.Module):
    """Layers that read prunable channels and cannot be solved, or not alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.squashing = Squashing(8, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.made = nn.Conv2d(8, 6, 1)
        nn.utils.parametrize.register_parametrization(self.made, "weight", Squashed())
        self.one = nn.Conv2d(6, 4, 1)
        self.other = nn.Conv2d(6, 4, 1)
        self.other.weight = self.one.weight
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.squashing, self.grouped, self.up, self.made):
            x = torch.relu(layer(x))
        return self.last((self.one(x) + self.other(torch.tanh(x))).mean((2, 3)))


def images(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def plan_of(network: nn.Module, example: Tensor) -> Plan:
    groups = prove(network, discover(network, example).groups, example).groups
    return plan_by("l1", Evidence(network, groups))


def halves(plan: Plan) -> Policy:
    return Policy.from_keep_ratios({group.name: 0.5 for group in plan.groups.prunable})


def seeded(*layers: nn.Module) -> nn.Module:
    """The layers in a row, with weights that do not depend on the order of the tests."""
    generator = torch.Generator().manual_seed(4)
    network = nn.Sequential(*layers).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(generator=generator)
    return network


def reconstructed(plan: Plan, policy: Policy, moments: Moments) -> nn.Module:
    network = plan.carve(policy)
    reconstruct(network, plan, policy, moments)
    return network


@contextmanager
def inputs_of(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record what the layers read while the block runs."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, args, kwargs, __, name=name: found[name].append(
                args[0] if args else kwargs["input"]
            ),
            with_kwargs=True,
        )
        for name in layers
    ]
    yield found
    for hook in hooks:
        hook.remove()


def columns_of(layer: nn.Module, x: Tensor) -> np.ndarray:
    """The slow twin of patches: one position after the other, shape (positions, d)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).double().numpy()
    size, step, gap = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "same":
        both = [(k - 1) * g for k, g in zip(size, gap, strict=True)]
        added = [(each // 2, each - each // 2) for each in both]
    else:
        each_side = (0,) * len(size) if layer.padding == "valid" else layer.padding
        added = [(each, each) for each in each_side]
    modes = {"zeros": "constant", "circular": "wrap", "reflect": "reflect"}
    data = np.pad(x.double().numpy(), [(0, 0), (0, 0), *added], mode=modes[layer.padding_mode])
    counts = [
        (length - g * (k - 1) - 1) // s + 1
        for length, k, s, g in zip(data.shape[2:], size, step, gap, strict=True)
    ]
    rows = []
    for sample in data:
        for place in itertools.product(*(range(count) for count in counts)):
            where = tuple(
                slice(p * s, p * s + g * (k - 1) + 1, g)
                for p, s, g, k in zip(place, step, gap, size, strict=True)
            )
            rows.append(sample[(slice(None), *where)].reshape(-1))
    return np.stack(rows)


def solved_by_twin(
    layer: nn.Module, rows: np.ndarray, kept: np.ndarray, outputs: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """The slow twin of solving: explicit rows and ridge rows, one dense least squares."""
    weight = layer.weight.double().numpy().reshape(len(layer.weight), -1)[outputs]
    mask = np.repeat(kept, weight.shape[1] // len(kept))
    read, lost = rows[:, mask], rows[:, ~mask] @ weight[:, ~mask].T
    ridge = np.eye(mask.sum()) * np.sqrt(1e-4 * (read**2).mean() * len(rows))
    if layer.bias is not None:
        read = np.c_[read, np.ones(len(read))]
        ridge = np.c_[ridge, np.zeros(len(ridge))]
    system = np.r_[read, ridge]
    target = np.r_[lost, np.zeros((len(ridge), lost.shape[1]))]
    change = np.linalg.lstsq(system, target, rcond=None)[0].T
    kernel = weight[:, mask] + change[:, : mask.sum()]
    if layer.bias is None:
        return kernel, None
    return kernel, layer.bias.double().numpy()[outputs] + change[:, -1]


LAYERS = {
    "linear": lambda: nn.Linear(8, 6),
    "linear, no bias": lambda: nn.Linear(8, 6, bias=False),
    "1x1": lambda: nn.Conv2d(8, 6, 1),
    "1x1, no bias": lambda: nn.Conv2d(8, 6, 1, bias=False),
    "3x3, stride, padding": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1),
    "3x3, no bias": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False),
    "oblong": lambda: nn.Conv2d(8, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
    "same": lambda: nn.Conv2d(8, 6, (4, 3), padding="same", dilation=(1, 2)),
    "valid": lambda: nn.Conv2d(8, 6, 3, padding="valid"),
    "circular": lambda: nn.Conv2d(8, 6, 3, padding=(2, 1), padding_mode="circular"),
    "reflect, same": lambda: nn.Conv2d(8, 6, (3, 4), padding="same", padding_mode="reflect"),
    "sequence": lambda: nn.Conv1d(8, 6, 3, stride=2, padding=1),
    "sequence, no bias": lambda: nn.Conv1d(8, 6, 5, dilation=2, bias=False),
}


def around(layer: nn.Module) -> tuple[nn.Module, Tensor]:
    """A network around a layer, and inputs for it: 16 samples."""
    x = images(16)
    if isinstance(layer, nn.Linear):  # three tokens each
        network = seeded(nn.Linear(64, 8), nn.ReLU(), layer, nn.Tanh(), nn.Linear(6, 3))
        return network, x.flatten(2)
    kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    network = seeded(kind(3, 8, 1), nn.ReLU(), layer, nn.Tanh(), kind(6, 3, 1))
    return network, x.flatten(2) if kind is nn.Conv1d else x
