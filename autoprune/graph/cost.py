"""The cost of a policy, computed from tables before anything is carved.

A layer's multiply-accumulates and parameters depend only on how many of its input and
output channels are kept, so every cheap cost is a handful of vector operations. The
table is plain data: it is built once from the traced network (`graph.layers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autoprune.graph.group import GroupTable, Side
from autoprune.policy import Policy


@dataclass(frozen=True, slots=True)
class Costs:
    """What a network costs: multiply-accumulates of one sample, parameters, stored bytes."""

    macs: int
    params: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer whose cost follows its channels.

    `positions` counts the output positions of one sample, `taps` the kernel's elements.
    A `depthwise` layer has one input channel per output. A normalisation has
    `taps == 0`: no macs, and `per_out` parameters and `buffers_per_out` buffer entries
    per channel; for other layers `per_out` counts the bias.
    """

    module: str
    inputs: int
    outputs: int
    taps: int
    positions: int
    conv_groups: int
    per_out: int
    buffers_per_out: int = 0

    @property
    def depthwise(self) -> bool:
        """Say whether every output reads exactly one input of its own."""
        return self.conv_groups > 1 and self.conv_groups == self.inputs == self.outputs


class CostTable:
    """Costs of every policy of a network: `costs(policy)` in microseconds, torch-free.

    `fixed_params` and `fixed_bytes` belong to no layer of the table; `item_bytes` is the
    stored size of one number.
    """

    def __init__(
        self,
        layers: Iterable[LayerCost],
        groups: GroupTable,
        *,
        fixed_params: int = 0,
        fixed_bytes: int = 0,
        item_bytes: int = 4,
    ) -> None:
        self.layers = tuple(layers)
        self.groups = groups
        self.fixed_params = fixed_params
        self.fixed_bytes = fixed_bytes
        self.item_bytes = item_bytes

        def column(name: str) -> np.ndarray:
            return np.array([getattr(each, name) for each in self.layers], dtype=np.float64)

        self._inputs, self._outputs = column("inputs"), column("outputs")
        self._taps, self._positions = column("taps"), column("positions")
        self._conv_groups = column("conv_groups")
        self._per_out, self._buffers = column("per_out"), column("buffers_per_out")
        self._depthwise = np.array([each.depthwise for each in self.layers], dtype=bool)
        self._units = np.array([group.units for group in groups.prunable], dtype=np.float64)
        self._out_width = self._widths("out")
        self._in_width = self._widths("in")

    def _widths(self, side: Side) -> np.ndarray:
        """Shape (layers, groups): entries of a layer's side that one unit takes along."""
        rows = {layer.module: index for index, layer in enumerate(self.layers)}
        widths = np.zeros((len(self.layers), len(self.groups.prunable)))
        for column, group in enumerate(self.groups.prunable):
            for each in group.slices:
                if each.side == side and each.module in rows:
                    widths[rows[each.module], column] += each.entries.shape[1]
        return widths

    def channels(self, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept input and output channels of every layer, shape (layers,) each."""
        kept = self.groups.kept_units(policy)
        removed = self._units - np.array([kept[g.name] for g in self.groups.prunable])
        return self._inputs - self._in_width @ removed, self._outputs - self._out_width @ removed

    def layer_macs(self, policy: Policy) -> np.ndarray:
        """Return the multiply-accumulates of every layer for one sample, shape (layers,)."""
        inputs, outputs = self.channels(policy)
        macs: np.ndarray = self._positions * self._weights(inputs, outputs)
        return macs

    def layer_params(self, policy: Policy) -> np.ndarray:
        """Return the parameters of every layer, shape (layers,)."""
        inputs, outputs = self.channels(policy)
        params: np.ndarray = self._weights(inputs, outputs) + self._per_out * outputs
        return params

    def costs(self, policy: Policy) -> Costs:
        """Return what `policy` costs; raises `PolicyError` for a policy of other groups."""
        inputs, outputs = self.channels(policy)
        weights = self._weights(inputs, outputs)
        params = int(np.sum(weights + self._per_out * outputs)) + self.fixed_params
        buffers = int(np.sum(self._buffers * outputs))
        stored = (params + buffers) * self.item_bytes + self.fixed_bytes
        return Costs(int(np.sum(self._positions * weights)), params, stored)

    def lowest(self) -> Costs:
        """Return the cost with one unit left in every prunable group."""
        ratios = {group.name: 1.0 / group.units for group in self.groups.prunable}
        return self.costs(Policy.from_keep_ratios(ratios))

    def _weights(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        fan_in = np.where(self._depthwise, 1.0, inputs / self._conv_groups)
        return np.asarray(self._taps * fan_in * outputs)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; the groups travel on their own."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "fixed_params": self.fixed_params,
            "fixed_bytes": self.fixed_bytes,
            "item_bytes": self.item_bytes,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any], groups: GroupTable) -> CostTable:
        """Rebuild a table from `to_json` and its groups."""
        layers = [LayerCost(**each) for each in body["layers"]]
        options = {key: value for key, value in body.items() if key != "layers"}
        return cls(layers, groups, **options)
