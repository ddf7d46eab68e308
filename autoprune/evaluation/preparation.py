"""What is found out once per job, stored with it, and sent to every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from autoprune.graph.network import NetworkGraph


@dataclass(frozen=True)
class Preparation:
    """The traced network, the number format for judging, and who the inputs are.

    `fingerprint` is a hash of the dense weights: a resumed job must find the same.
    """

    graph: NetworkGraph
    dtype: torch.dtype
    num_classes: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal preparation."""
        return {
            "graph": self.graph.to_json(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "num_classes": self.num_classes,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Preparation:
        """Rebuild a preparation from `to_json`."""
        return cls(
            NetworkGraph.from_json(body["graph"]),
            getattr(torch, body["dtype"]),
            body["num_classes"],
            body["fingerprint"],
        )
