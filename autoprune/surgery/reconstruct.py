"""Reconstruction: kernels that read removed channels are solved anew, without training.

    moments = Moments.gather(model, graph.groups, batches)      # once per dense network
    network = plan.carve(policy)
    reconstruct(network, plan, policy, moments)                 # for every candidate

What a layer still reads partly predicts what it no longer reads. Its new kernel is the one
whose outputs are closest, in least squares over real inputs, to those of the dense layer
(He, Zhang and Sun, Channel Pruning, ICCV 2017; He et al., AMC, ECCV 2018). That takes only
the second moments of the layer's dense inputs, and every candidate is a sub-matrix of them
(Frantar and Alistarh, Optimal Brain Compression, NeurIPS 2022): data is read once, however
many candidates follow. Batch norms behind the layers are left alone; recalibrate them after.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.surgery.plan import Plan
from autoprune.tracing.layers import is_plain
from autoprune.tracing.recorder import evaluation_mode

RIDGES = (1e-4, 1e-2, 1.0)
"""Ridges, as shares of the kept inputs' mean square; a next one where the system is singular."""

Conv = nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class LayerMoments:
    """What solving one layer takes; d inputs, m outputs, in float64 on the model's device.

    An input is a column of the kernel laid out flat, as `torch.nn.functional.unfold` does:
    channel by channel, and `kernel` elements in each; 1 for a linear layer. A layer with a
    bias has one input more, the last, that is always one.

    `gram` has shape (d, d): the mean of x xᵀ over inputs x of the dense network. `weight`
    has shape (d, m): the dense kernel, transposed, with the bias in its last row.
    """

    gram: Tensor
    weight: Tensor
    kernel: int
    has_bias: bool

    def solved(self, inputs: np.ndarray, outputs: np.ndarray | None) -> Tensor | None:
        """Return the best kernel on the kept inputs, shape (kept d, kept m), or None.

        `inputs` has shape (channels,) and `outputs` (m,), or is None if all stay; true is
        kept. None means that the moments hold NaN or infinity.

        With kept inputs K and removed ones R the dense kernel W gains a correction:
        W_K + (G_KK + λ I)⁻¹ G_KR W_R. The ridge pulls towards the dense kernel instead of
        zero, so nothing is lost where nothing left.
        """
        columns = np.repeat(inputs, self.kernel)
        kept = self._index(np.append(columns, np.ones(int(self.has_bias), dtype=bool)))
        removed = self._index(~columns)
        weight = self.weight
        if outputs is not None:
            weight = weight.index_select(1, self._index(outputs))
        rows = self.gram.index_select(0, kept)
        target = rows.index_select(1, removed) @ weight.index_select(0, removed)
        correction = self._correction(rows.index_select(1, kept), target)
        return None if correction is None else weight.index_select(0, kept) + correction

    def carved(self, inputs: np.ndarray | None, layer: nn.Module) -> LayerMoments:
        """Return the moments of a carved `layer`: of its kept inputs, with its own weights.

        `inputs` has shape (channels,), true is kept, or is None if all stay.
        """
        gram = self.gram
        if inputs is not None:
            columns = np.repeat(inputs, self.kernel)
            kept = self._index(np.append(columns, np.ones(int(self.has_bias), dtype=bool)))
            gram = gram.index_select(0, kept).index_select(1, kept)
        return replace(self, gram=gram, weight=_flat(layer).double())

    def damped(self) -> Tensor | None:
        """Return the G + λ I that `inverse` inverts; None where there is NaN or infinity."""
        gram = self.gram.clone()
        for _ in self._factors(gram, RIDGES[1:]):
            return gram if gram.isfinite().all() else None
        return None

    def inverse(self) -> Tensor | None:
        """Return (G + λ I)⁻¹, shape (d, d), or None where the moments hold NaN or infinity.

        Sums of float32 are wrong by some 1e-7: what an inverse with the first ridge says of
        directions that no sample had would be rounding. The second is what others dampen with
        (Frantar and Alistarh, SparseGPT, ICML 2023).
        """
        for factor in self._factors(self.gram.clone(), RIDGES[1:]):
            found = torch.cholesky_inverse(factor)
            if found.isfinite().all():
                return found
        return None

    def _correction(self, gram: Tensor, target: Tensor) -> Tensor | None:
        """Solve (gram + λ I) x = target; overwrites `gram`."""
        for factor in self._factors(gram):
            found = torch.cholesky_solve(target, factor)
            if found.isfinite().all():
                return found
        return None

    def _factors(self, gram: Tensor, ridges: tuple[float, ...] = RIDGES) -> Iterator[Tensor]:
        """Yield Cholesky factors of gram + λ I, of ever larger ridges; overwrites `gram`."""
        # A ridge on the bias would depend on the scale of the inputs; the moment of the
        # constant is one, so the system is definite without it.
        diagonal = gram.diagonal()[: len(gram) - int(self.has_bias)]
        # Inputs that are all dead have no scale: with any ridge they stay, and only the bias moves.
        scale = diagonal.mean().clamp(min=1e-30)
        added = 0.0
        for ridge in ridges:
            diagonal += (ridge - added) * scale
            added = ridge
            factor, failed = torch.linalg.cholesky_ex(gram)
            if not failed:
                yield factor

    def _index(self, mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.flatnonzero(mask)).to(self.gram.device)


@dataclass(frozen=True)
class Moments:
    """Second moments of what the layers of a dense network read, by the layers' names.

    `left_out` names the layers whose moments would not fit in memory.
    """

    layers: Mapping[str, LayerMoments]
    left_out: tuple[str, ...]

    @classmethod
    def gather(
        cls,
        model: nn.Module,
        groups: GroupTable,
        batches: Iterable[Tensor],
        *,
        positions: int = 40,
        limit_bytes: int = 2**30,
        seed: int = 0,
        every: bool = False,
    ) -> Moments:
        """Run the dense `model` over `batches` (n, ...) and return the moments.

        Each call of a layer counts all its output positions (pixels, tokens), but at most
        `positions` for each sample of the batch, drawn with `seed`; several calls add up.

        Solved are linear layers and convolutions in one group that read a prunable group; with
        `every`, also those that read none.
        Others keep the kernels that carving gives them: grouped and transposed
        convolutions, layers whose parameters are shared with another or made from others
        (weight norm), subclasses that compute something else. So do the largest layers, as
        many as it takes to stay within `limit_bytes`: the moments of d inputs take 8 d²
        bytes, and about as much again while they are gathered.

        The model runs in eval mode without gradients and is not changed, also where it raises.
        """
        layers = _solvable(model, None if every else groups)
        left_out = _too_large(layers, limit_bytes)
        sums = {
            name: _Sum(each, positions, zlib.crc32(name.encode()) + seed)
            for name, each in layers.items()
            if name not in left_out
        }
        _add_up(model, sums, batches)
        # A layer that never ran by itself is read by its owner, as in attention.
        found = {name: each.moments() for name, each in sums.items() if each.count}
        return cls(found, left_out)


def _add_up(model: nn.Module, sums: Mapping[str, _Sum], batches: Iterable[Tensor]) -> None:
    """Run `model` over `batches` and let every sum see what its layer reads."""
    hooks = [
        each.layer.register_forward_pre_hook(each.add, with_kwargs=True) for each in sums.values()
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            for batch in batches:
                for each in sums.values():
                    each.samples = len(batch)
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def reconstruct(network: nn.Module, plan: Plan, policy: Policy, moments: Moments) -> None:
    """Solve every layer of a carved network that lost inputs, in place.

    `network` is what `plan` carved by `policy`, not trained since, and `moments` were
    gathered from the plan's model. Layers that lost no inputs, and those
    without moments, stay as they are. So do mode, number format, device and layout.
    """
    kept, factors = plan.kept_entries(policy), plan.factors(policy)
    for name, layer in moments.layers.items():
        weight_name, bias_name = f"{name}.weight", f"{name}.bias"
        inputs = kept.get((weight_name, 1))
        if inputs is None:
            continue
        solved = layer.solved(inputs, kept.get((weight_name, 0)))
        if solved is None:
            continue
        weight = network.get_parameter(weight_name)
        if layer.has_bias:
            bias = solved[-1] * factors.get(bias_name, 1.0)
            network.get_parameter(bias_name).copy_(bias)
            solved = solved[:-1]
        weight.copy_(solved.T.reshape(weight.shape) * factors.get(weight_name, 1.0))


class _Sum:
    """Adds up the second moments of one layer's inputs as a hook before its calls."""

    def __init__(self, layer: nn.Linear | Conv, positions: int, seed: int) -> None:
        self.layer = layer
        self.positions = positions
        self.samples = 0
        self.count = 0
        self._generator = torch.Generator().manual_seed(seed)
        size = _inputs(layer)
        self._total = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)

    def add(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take the inputs of one call."""
        inputs: Tensor = args[0] if args else kwargs["input"]
        if isinstance(self.layer, nn.Linear):
            rows = self._drawn(inputs.flatten(0, -2) if inputs.dim() > 1 else inputs[None], 1)
        else:
            rows = self._drawn(windows(self.layer, inputs), len(self.layer.kernel_size) + 1)
        rows = rows.float()
        if self.layer.bias is not None:
            rows = functional.pad(rows, (0, 1), value=1.0)
        # Sums of one batch are exact enough in float32; sums of many are not.
        self._total += rows.T @ rows
        self.count += len(rows)

    def moments(self) -> LayerMoments:
        """Return the mean over all rows, with the layer's own weights."""
        return LayerMoments(
            self._total / self.count,
            _flat(self.layer).double(),
            kernel=self.layer.weight[0, 0].numel(),
            has_bias=self.layer.bias is not None,
        )

    def _drawn(self, windows: Tensor, dims: int) -> Tensor:
        """Return windows at some of the positions, which are the first `dims` dimensions."""
        grid = windows.shape[:dims]
        total, wanted = math.prod(grid), self.positions * self.samples
        if total <= wanted:
            return windows.flatten(0, dims - 1).flatten(1)
        chosen = torch.randperm(total, generator=self._generator)[:wanted]
        return windows[torch.unravel_index(chosen.to(windows.device), grid)].flatten(1)


def windows(layer: Conv, inputs: Tensor) -> Tensor:
    """Return a view of what each output reads: (n, *output size, channels, *kernel size)."""
    spatial = len(layer.kernel_size)
    if inputs.dim() == spatial + 1:  # a single sample
        inputs = inputs[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = functional.pad(inputs, _padding(layer), mode=mode)
    for axis in range(spatial):
        gap, extent = layer.dilation[axis], layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        windows = windows.unfold(2 + axis, extent + 1, layer.stride[axis])[..., ::gap]
    return windows.movedim(1, 1 + spatial)


def _padding(layer: Conv) -> list[int]:
    """Return what is added before and after each dimension, the last one first."""
    sizes: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        if isinstance(layer.padding, str):  # `same`, or `valid` for none
            extent = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            both = extent if layer.padding == "same" else 0
            sizes += [both // 2, both - both // 2]
        else:
            sizes += [layer.padding[axis]] * 2
    return sizes


def _solvable(model: nn.Module, groups: GroupTable | None) -> dict[str, nn.Linear | Conv]:
    """Return the layers, by name, whose kernels can be solved.

    With `groups`, only those that read a prunable one.
    """
    owners = Counter(
        id(each) for module in model.modules() for each in module.parameters(recurse=False)
    )
    if groups is None:
        names = [name for name, _ in model.named_modules()]
    else:
        slices = (each for group in groups.prunable for each in group.slices)
        names = [each.module for each in slices if each.role == "in" and each.dim == 1]
    found: dict[str, nn.Linear | Conv] = {}
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or not is_plain(layer):
            continue
        if getattr(layer, "groups", 1) != 1:
            continue
        # A kernel that is made from other parameters is nobody's.
        if all(owners[id(one)] == 1 for one in (layer.weight, layer.bias) if one is not None):
            found[name] = layer
    return found


def _too_large(layers: Mapping[str, nn.Linear | Conv], limit_bytes: int) -> tuple[str, ...]:
    """Return the largest layers, as many as must go for the others to fit."""
    counts = {name: _inputs(each) for name, each in layers.items()}
    sizes = {name: 8 * d * (d + layers[name].weight.shape[0]) for name, d in counts.items()}
    total, dropped = sum(sizes.values()), []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if total > limit_bytes:
            total -= sizes[name]
            dropped.append(name)
    return tuple(dropped)


def _flat(layer: nn.Module) -> Tensor:
    """Return a kernel laid out flat and transposed, with the bias in its last row."""
    weight = layer.get_parameter("weight").detach().flatten(1).T
    bias = dict(layer.named_parameters(recurse=False)).get("bias")
    return weight if bias is None else torch.cat([weight, bias.detach()[None]])


def _inputs(layer: nn.Linear | Conv) -> int:
    """Return the number of inputs of one output, the constant of the bias included."""
    return layer.weight[0].numel() + int(layer.bias is not None)
