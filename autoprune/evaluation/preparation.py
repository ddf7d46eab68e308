"""What is found out once per job, stored with it, and sent to every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autoprune.graph.network import NetworkGraph
from autoprune.surgery.plan import Scores


@dataclass(frozen=True)
class Preparation:
    """The traced network, the number format for judging, and who the inputs are.

    `fingerprint` is a hash of the dense weights: a resumed job must find the same. `scores`
    maps every criterion that policies may name to the scores of each prunable group's units.
    `multiple` is what `space.round_to: auto` stands for.
    """

    graph: NetworkGraph
    dtype: torch.dtype
    num_classes: int
    fingerprint: str
    scores: Mapping[str, Scores]
    multiple: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal preparation."""
        return {
            "graph": self.graph.to_json(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "num_classes": self.num_classes,
            "fingerprint": self.fingerprint,
            "scores": {
                criterion: {group: each.tolist() for group, each in table.items()}
                for criterion, table in self.scores.items()
            },
            "multiple": self.multiple,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Preparation:
        """Rebuild a preparation from `to_json`."""
        return cls(
            NetworkGraph.from_json(body["graph"]),
            getattr(torch, body["dtype"]),
            body["num_classes"],
            body["fingerprint"],
            {
                criterion: {group: np.array(each) for group, each in table.items()}
                for criterion, table in body["scores"].items()
            },
            body["multiple"],
        )
