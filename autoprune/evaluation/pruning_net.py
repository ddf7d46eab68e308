"""PruningNet: a network that generates the weights of carved networks.

Liu et al., "MetaPruning: meta learning for automatic neural network channel pruning", ICCV
2019. There every kernel is generated whole from the widths, which takes 33 times as many
weights as the kernels have. Here the generator changes the pretrained network: it begins
with the slices that carving takes, and learns what to add for the network at hand.

    net = PruningNet(plan, rank=8)
    network = plan.carve(policy)
    logits = torch.func.functional_call(network, net.weights(policy), (inputs,))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.graph.block import held
from autoprune.graph.group import Role
from autoprune.policy import Policy
from autoprune.surgery.plan import Plan

GeneratorKind = Literal["residual", "full"]
# In float32, with momentum and gradients: 600 MB.
MAX_GENERATED = 50_000_000
Kept = Mapping[int, Tensor]
"""Positions that stay, by dimension; what is not named stays whole."""


class PruningNet(nn.Module):
    """Generates every parameter that carving cuts, from what a policy keeps.

    A shared layer reads the encoding: the keep_ratio of every prunable group and, for each
    block that may be left out, whether it stays. A kernel (two dimensions or more) gains a
    product of three factors, of which the middle one, `rank` squared, is generated, and then
    a generated scale per output. A vector (bias, or scale of a norm) gains a generated
    shift. All of that is zero before training, so the weights are the carved ones exactly.

    With `generator="full"` a kernel gains a generated one of its full size, cropped, as in
    the paper, which begins at random weights instead.

    Raises:
        ModelError: The generator would have more than `MAX_GENERATED` weights.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        generator: GeneratorKind = "residual",
        rank: int = 8,
        hidden: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._plan = plan
        self.targets = _targets(plan)
        if generator == "full":
            _check_size(self.targets, hidden)
        device = next(plan.model.parameters()).device
        inputs = len(plan.groups.prunable) + len(plan.groups.droppable)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.trunk = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU())
            self.makers = nn.ModuleList(
                _Kernel(each, rank, hidden)
                if each.tensor.dim() > 1 and generator == "residual"
                else _Direct(each, hidden)
                for each in self.targets
            )
        self.to(device)

    def encode(self, policy: Policy) -> Tensor:
        """Return what is kept of every prunable group and block, shape (groups + blocks,)."""
        groups = self._plan.groups
        kept = groups.kept_units(policy)
        ratios = [kept[each.name] / each.units for each in groups.prunable]
        stays = [float(each.name not in policy.dropped) for each in groups.droppable]
        return torch.tensor([*ratios, *stays], device=next(self.parameters()).device)

    def weights(self, policy: Policy) -> dict[str, Tensor]:
        """Return the parameters of `plan.carve(policy)` that are generated, by name.

        They carry gradients to this network. Raises what carving raises.
        """
        code = self.trunk(self.encode(policy))
        dropped = self._plan.groups.dropped(policy)
        factors = self._plan.factors(policy)
        kept = self._kept(policy)
        return {
            each.name: maker(code, kept.get(each.name, {})) * factors.get(each.name, 1.0)
            for each, maker in zip(self.targets, self.makers, strict=True)
            if not held(dropped, each.name.rpartition(".")[0])
        }

    def _kept(self, policy: Policy) -> dict[str, dict[int, Tensor]]:
        device = next(self.parameters()).device
        kept: dict[str, dict[int, Tensor]] = {}
        for (name, dim), mask in self._plan.kept_entries(policy).items():
            positions = torch.from_numpy(np.flatnonzero(mask)).to(device)
            kept.setdefault(name, {})[dim] = positions
        return kept


@dataclass(frozen=True)
class _Target:
    """A dense parameter that carving cuts, and which of its dimensions makes the outputs."""

    name: str
    tensor: Tensor
    made: int


def _targets(plan: Plan) -> list[_Target]:
    """Return the parameters that prunable groups cut, in the network's order."""
    roles: dict[str, dict[int, Role]] = {}
    for each in (one for group in plan.groups.prunable for one in group.slices):
        roles.setdefault(each.tensor, {})[each.dim] = each.role
    return [
        _Target(name, each.detach(), _made(each.dim(), roles[name]))
        for name, each in plan.model.named_parameters(remove_duplicate=False)
        if name in roles
    ]


def _made(dims: int, roles: Mapping[int, Role]) -> int:
    """Return the dimension that makes units, else the first one that does not read any."""
    made = (dim for dim, role in roles.items() if role == "out")
    return next(made, next((dim for dim in range(dims) if roles.get(dim) != "in"), 0))


def _check_size(targets: Iterable[_Target], hidden: int) -> None:
    count = sum(each.tensor.numel() for each in targets) * (hidden + 1)
    if count > MAX_GENERATED:
        raise ModelError(
            f"generator 'full' needs {count:,} weights for this network, "
            f"and at most {MAX_GENERATED:,} are allowed; use 'residual', or lower hidden"
        )


class _Direct(nn.Module):
    """A tensor plus one generated in its own shape, then sliced."""

    def __init__(self, target: _Target, hidden: int) -> None:
        super().__init__()
        self._tensor = target.tensor
        self.added = _silent(hidden, target.tensor.numel())

    def forward(self, code: Tensor, kept: Kept) -> Tensor:
        return _sliced(self._tensor + self.added(code).view(self._tensor.shape), kept)


class _Kernel(nn.Module):
    """A kernel plus left · core · right, scaled per output; core and scale are generated.

    Only what stays of the kernel and of its factors is ever multiplied.
    """

    def __init__(self, target: _Target, rank: int, hidden: int) -> None:
        super().__init__()
        self._tensor, self._made = target.tensor, target.made
        shape = list(target.tensor.shape)
        outputs, shape[target.made] = shape[target.made], rank
        reach = (outputs / target.tensor.numel()) ** 0.5
        self.left = nn.Parameter(torch.zeros(outputs, rank))
        self.right = nn.Parameter(torch.empty(shape).uniform_(-reach, reach))
        self.core = _silent(hidden, rank * rank)
        # With a core of zeros as well, no gradient would reach either factor.
        nn.init.eye_(self.core.bias.data.view(rank, rank))
        self.scale = _silent(hidden, outputs)

    def forward(self, code: Tensor, kept: Kept) -> Tensor:
        outputs = {0: kept[self._made]} if self._made in kept else {}
        inputs = {dim: each for dim, each in kept.items() if dim != self._made}
        left = _sliced(self.left, outputs) @ self.core(code).view(self.left.shape[1], -1)
        added = torch.tensordot(left, _sliced(self.right, inputs), dims=([1], [self._made]))
        kernel: Tensor = _sliced(self._tensor, kept) + added.movedim(0, self._made)
        scale = 1.0 + _sliced(self.scale(code), outputs)
        return kernel * scale.view([-1 if x == self._made else 1 for x in range(kernel.dim())])


def _silent(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that gives zeros until it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _sliced(tensor: Tensor, kept: Kept) -> Tensor:
    for dim, positions in kept.items():
        tensor = tensor.index_select(dim, positions)
    return tensor
