"""NISP (Yu et al., Pruning Networks using Neuron Importance Score Propagation, CVPR 2018)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.contracts.criterion import Cost, Criterion
from autoprune.graph.group import PrunableGroup, Slice
from autoprune.graph.units import voted
from autoprune.scoring.evidence import Evidence

# Importances grow from layer to layer; what passes this is scaled back, with all others.
_HUGE = 1e100


class Nisp(Criterion):
    """How much of the final responses goes through a unit: s = Σ |W|ᵀ a s' over what reads it.

    Importance flows back from the network's outputs through absolute weights, summed over the
    places of a kernel. Kernels pass it on in the reverse order of the forward pass: each adds
    |W|ᵀ a s' to the groups that it reads, with s' what the groups that it makes have so far. In
    a residual stage that is the sum over the branches and the shortcut, since all that the stage
    has goes on to the layers before. a = |γ| / √(σ² + ε) is the factor of a batch norm that
    follows the kernel; one that stands before the next reader instead cannot be told from it.

    A depthwise convolution multiplies what has come to its group since the last kernel that
    makes it; of others in groups, rows are passed on to the channels that they read. A unit of
    several rows (a head) shares its importance among them, and rows in several groups take the
    mean.

    The paper ranks the final responses by Inf-FS first; here they count 1 each, as does
    everything that leads nowhere that is known, so weights alone are needed. Readers of a
    group add up. Importance grows from layer to layer, so every group is scaled to a mean of 1,
    and one threshold treats groups alike. Groups that no kernel reads are left out.
    """

    cost: ClassVar[Cost] = "weights"

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the scaled importances of every group that a kernel reads."""
        flow = _Flow(evidence)
        for kernel in reversed(evidence.kernels):
            flow.pass_back(kernel)
        return {
            each.name: flow.scaled[each.name]
            for each in evidence.groups.prunable
            if each.name in flow.scaled
        }


class _Flow:
    """Importances on their way back; `scaled` are those so far, with a mean of 1 in each group.

    What a group has is settled once a kernel that makes it was met; what came since is fresh.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.scaled: dict[str, np.ndarray] = {}
        self._evidence = evidence
        self._final = 1.0
        self._settled: dict[str, np.ndarray] = {}
        self._fresh: dict[str, np.ndarray] = {}
        self._makers: dict[str, list[tuple[PrunableGroup, Slice]]] = {}
        self._readers: dict[str, list[tuple[PrunableGroup, Slice]]] = {}
        tables = {"out": self._makers, "in": self._readers}
        for group in evidence.groups:
            for each in group.slices:
                # Dimensions that stay whole without having units list no entries.
                if each.role in tables and each.entries.size:
                    tables[each.role].setdefault(each.tensor, []).append((group, each))

    def pass_back(self, kernel: str) -> None:
        """Let a kernel pass on the importance of what it makes to what it reads."""
        weights = np.abs(self._evidence.weights[kernel].astype(np.float64))
        places = weights.sum(axis=tuple(range(2, weights.ndim)))
        makers, readers = self._makers.get(kernel, []), self._readers.get(kernel, [])
        if not readers and self._is_depthwise(kernel):
            for group, maker in makers:
                if group.name in self._fresh:
                    rows = _by_unit(maker, places[:, 0]) / maker.entries.shape[1]
                    self._fresh[group.name] *= rows * self._factors(group, maker)
                    self._note(group)
            return
        # Of its first two dimensions a kernel reads one and makes the other.
        columns = {
            dim: np.tensordot(self._rows(kernel, 1 - dim), places, (0, 1 - dim))
            for dim in {reader.dim for _, reader in readers}
        }
        for group, _ in makers:
            if group.name in self._fresh:
                self._settled[group.name] = self._so_far(group)
                del self._fresh[group.name]
        for group, reader in readers:
            added = _by_unit(reader, columns[reader.dim])
            self._fresh[group.name] = self._fresh.get(group.name, 0.0) + added
            self._note(group)

    def _rows(self, kernel: str, dim: int) -> np.ndarray:
        """Return the importance of what a kernel makes along a dimension, shape (size,)."""
        size = self._evidence.weights[kernel].shape[dim]
        total, count = np.zeros(size), np.zeros(size)
        for group, maker in self._makers.get(kernel, []):
            if maker.dim == dim and group.name in self._settled.keys() | self._fresh.keys():
                width = maker.entries.shape[1]
                shares = self._so_far(group) * self._factors(group, maker) / width
                units, columns = np.nonzero(maker.entries >= 0)
                positions = maker.entries[units, columns]
                total[positions] += shares[units]
                count[positions] += 1.0
        rows: np.ndarray = np.where(count > 0.0, total / np.maximum(count, 1.0), self._final)
        return rows

    def _so_far(self, group: PrunableGroup) -> np.ndarray:
        nothing = np.zeros(group.units)
        settled = self._settled.get(group.name, nothing)
        total: np.ndarray = settled + self._fresh.get(group.name, nothing)
        return total

    def _note(self, group: PrunableGroup) -> None:
        """Write down what a group has, and scale everything back if that is huge."""
        importance = self._so_far(group)
        scaled = voted([importance])
        assert scaled is not None
        self.scaled[group.name] = scaled
        peak = importance.max()
        if peak > _HUGE:
            self._final /= peak
            for table in (self._settled, self._fresh):
                for name in table:
                    table[name] = table[name] / peak

    def _factors(self, group: PrunableGroup, maker: Slice) -> np.ndarray:
        """Return the factors of batch norms between a kernel and the next, shape (units,).

        Slices come in the order of the forward pass. Several that follow the same kernel, each
        before a reader of its own as in a DenseNet, count with their mean.
        """
        found: dict[str, np.ndarray] = {}
        is_behind = False
        for each in group.slices:
            if each.role == "out" and each.tensor in self._evidence.kernels:
                is_behind = each is maker
            elif each.role == "along" and is_behind and each.module not in found:
                module = self._evidence.model.get_submodule(each.module)
                if isinstance(module, _BatchNorm) and each.entries.size:
                    sums = _by_unit(each, _scales(module))
                    found[each.module] = sums / each.entries.shape[1]
        return np.mean(list(found.values()), axis=0) if found else np.ones(group.units)

    def _is_depthwise(self, kernel: str) -> bool:
        """Say whether a kernel has filters for single channels, of a group that it makes."""
        module = self._evidence.model.get_submodule(kernel.rpartition(".")[0])
        groups = getattr(module, "groups", 1)
        is_narrow = self._evidence.weights[kernel].shape[1] == 1
        return is_narrow and isinstance(groups, int) and groups > 1


def _by_unit(each: Slice, values: np.ndarray) -> np.ndarray:
    """Return the sums of values (size,) over the entries of every unit, shape (units,)."""
    sums: np.ndarray = np.where(each.entries >= 0, values[each.entries], 0.0).sum(axis=1)
    return sums


def _scales(norm: _BatchNorm) -> np.ndarray:
    """Return by what a batch norm multiplies every channel, in size: |γ| / √(σ² + ε)."""
    scales = np.ones(norm.num_features)
    if norm.affine:
        scales *= np.abs(norm.weight.detach().double().cpu().numpy())
    if norm.running_var is not None:
        scales /= np.sqrt(norm.running_var.double().cpu().numpy() + norm.eps)
    return scales
