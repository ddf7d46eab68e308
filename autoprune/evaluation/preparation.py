"""What is found out once per job, stored with it, and sent to every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autoprune import plugins
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import Job
from autoprune.space import SearchSpace
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


def is_automatic(job: Job) -> bool:
    """Say whether the job's space rounds to what the device likes best."""
    return job.space.options.get("round_to") == "auto"


def space_of(job: Job, preparation: Preparation) -> SearchSpace:
    """Return the job's space over the groups found; raises `InputError` where it has none."""
    options = dict(job.space.options)
    if is_automatic(job):
        options["round_to"] = preparation.multiple
    spec = job.space.model_copy(update={"options": options})
    space: SearchSpace = plugins.create("space", spec, preparation.graph.groups)
    return space
