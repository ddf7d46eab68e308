"""Evaluations recorded once by the real evaluator, and looked up ever after.

    network = RecordedNetwork("resnet20", Path("runs/recorded.sqlite"))
    network.evaluate(policy)              # of V; from the table, or measured and recorded
    network.report(policy)                # error on T, likewise

Hypervolume against the number of evaluations does not depend on who measured a policy
first. Rows carry everything that a measurement depends on; without the file, all is
measured again. Several processes may share one table.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from autoprune import plugins
from autoprune.contracts.executor import WorkItem
from autoprune.contracts.searcher import SearchProblem
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.metrics import referenced
from autoprune.policy import Policy
from autoprune.preflight import criteria_of, preflight
from autoprune.space import SearchSpace
from autoprune.trial import Evaluation
from autoprune.validation import validated

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
REPORTED = 2000
CHECKPOINTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}


class RecordedNetwork:
    """A CIFAR-10 ResNet whose inner channels are searched, and its table of evaluations.

    Rung 0 takes the batch norms anew on `repair_images` training images (and, with `repair`
    "both", reconstructs) and judges on the first `images` of V; `more` are keys of the job
    that differ.
    """

    def __init__(
        self,
        name: str,
        table: Path,
        *,
        repair: str = "bn",
        repair_images: int = 250,
        images: int = 500,
        reported: int = REPORTED,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        torch.set_num_threads(1)
        rung = {"repair": repair, "repair_images": repair_images, "images": images}
        job = validated(
            {
                "model": {"name": f"cifar_{name}", "checkpoint": _checkpoint(name)},
                "data": {
                    "name": "cifar10",
                    "path": os.environ.get("AUTOPRUNE_CIFAR10", str(DATA / "cifar10.npz")),
                    "splits": {"source": "test", "search": 5000, "report": reported},
                },
                "space": {"name": "layerwise", "include": ["layer*.conv1"]},
                "rungs": [rung],
                "resources": {"workers": "serial", "device": "cpu"},
                **(more or {}),
            }
        )
        found = preflight(job)
        self.job = job
        self.preparation = found.preparation
        self._space = found.space
        what = [name, self.preparation.fingerprint[:16], rung, reported]
        self._key = json.dumps([*what, more] if more else what, sort_keys=True)
        table.parent.mkdir(parents=True, exist_ok=True)
        self._table = sqlite3.connect(table, timeout=60, isolation_level=None)
        self._table.execute("PRAGMA journal_mode=WAL")
        self._table.execute(
            "CREATE TABLE IF NOT EXISTS evaluation (network TEXT, split TEXT, policy TEXT, "
            "body TEXT, PRIMARY KEY (network, split, policy))"
        )

    @cached_property
    def evaluator(self) -> NetworkEvaluator:
        """The evaluator, built when the first policy is not in the table."""
        job = self.job.to_json()
        return NetworkEvaluator(job=job, preparation=self.preparation.to_json())

    def problem(self, trials: int, space: SearchSpace | None = None) -> SearchProblem:
        """Return what searchers know, in a timeless search of so many trials."""
        graph = self.preparation.graph
        dense = self.evaluate(Policy())
        return SearchProblem(
            space or self._space,
            referenced(self.job, dense, self.preparation.num_classes),
            graph.groups,
            graph.costs,
            trials,
            self.preparation.scores[criteria_of(self.job)[0]],
            dense,
            is_timeless=True,
        )

    def evaluate(self, policy: Policy, rung: int = 0, seed: int = 0) -> Evaluation:
        """Return what a rung measures of a policy on V."""
        canonical = self.preparation.graph.groups.canonical(policy)
        return self._looked_up("search", WorkItem(1, canonical, rung, seed=seed))

    def report(self, policy: Policy, rung: int = 0, seed: int = 0) -> Evaluation:
        """Return what is measured of a policy on T."""
        canonical = self.preparation.graph.groups.canonical(policy)
        return self._looked_up("report", WorkItem(1, canonical, rung, seed=seed), self._on_report)

    def _looked_up(
        self,
        split: str,
        item: WorkItem,
        measure: Callable[[WorkItem], Evaluation] | None = None,
    ) -> Evaluation:
        recovered = f" at rung {item.rung} from seed {item.seed}" if item.rung else ""
        key = (self._key, split + recovered, item.policy.sha256)
        query = "SELECT body FROM evaluation WHERE network = ? AND split = ? AND policy = ?"
        row = self._table.execute(query, key).fetchone()
        if row is not None:
            return Evaluation.from_json(json.loads(row[0]))
        evaluation = (measure or self.evaluator.evaluate)(item)
        body = json.dumps(evaluation.to_json())
        self._table.execute("INSERT OR REPLACE INTO evaluation VALUES (?, ?, ?, ?)", (*key, body))
        return evaluation

    def _on_report(self, item: WorkItem) -> Evaluation:
        """Judge in the number format of the search: float32 would take twice as long."""
        bench = self.evaluator.bench
        item = replace(item, split="report")
        dtype = self.preparation.dtype
        network = self.evaluator.network(item, dtype)
        judge = self.evaluator.judge
        measured = judge.measure(judge.subject(network, item, dtype))
        return Evaluation(measured, device=bench.device_name)


def _checkpoint(name: str) -> str:
    variable = f"AUTOPRUNE_{name.upper()}"
    return os.environ.get(variable, str(DATA / CHECKPOINTS[name]))


def searcher_names() -> list[str]:
    """Return the searchers that need no training on a worker."""
    return [name for name in plugins.names("searcher") if name != "metapruning"]
