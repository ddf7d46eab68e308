"""One network, its data and one rung, in which all methods are judged alike."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import nn

from autoprune import plugins
from autoprune.candidate import digest_of
from autoprune.comparison.entry import Measured, Outcome, Scoring
from autoprune.comparison.request import Request
from autoprune.contracts.executor import Split, WorkItem
from autoprune.contracts.exporter import versions
from autoprune.contracts.objective import Objective, Subject
from autoprune.contracts.recovery import Recovery
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.keyed_file import digest, key_of
from autoprune.evaluation.recovery import recovery_of, training_steps
from autoprune.evaluation.sparsification import Sparsification
from autoprune.evaluation.workbench import scoring_samples
from autoprune.executor.failure import failure_of
from autoprune.policy import Policy
from autoprune.preflight import Preflight
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.gathering import gather, weigh
from autoprune.scoring.table import SaliencyTable, ScoreTable
from autoprune.trial import Measurement

_SPLITS: tuple[Split, ...] = ("search", "report")
Ranking: TypeAlias = ScoreTable | SaliencyTable
"""What a criterion says of units, or of single weights."""


class Arena:
    """Scores units or single weights, and measures networks, of the job of a pre-flight.

    Everything runs in float32: which format is the fastest is told by a timing, which may tell
    otherwise when a comparison goes on.
    """

    def __init__(self, found: Preflight, *, of_weights: bool) -> None:
        preparation = replace(found.preparation, dtype=torch.float32, scores={})
        self._evaluator = NetworkEvaluator(
            job=found.job.to_json(), preparation=preparation.to_json()
        )
        bench = self._evaluator.bench
        self._of_weights = of_weights
        self._sparsification = Sparsification(bench, None)
        self._samples = scoring_samples(found.job, bench.dataset, bench.device)
        self.evidence = self._anew()

    @property
    def trains(self) -> bool:
        """Say whether the rung trains, so that its seed matters."""
        bench = self._evaluator.bench
        return training_steps(bench.job.rungs[0], len(bench.dataset.train)) > 0

    @property
    def metrics(self) -> Mapping[str, Objective]:
        """What the job measures; what needs an exclusive process is not measured here."""
        return self._evaluator.judge.metrics

    def settings(self, request: Request) -> dict[str, Any]:
        """Return everything that values follow from, but for method, share and seed; JSON.

        Weights and samples count, not the names of the files that they were read from.
        """
        bench = self._evaluator.bench
        preparation, job = bench.preparation, bench.job.to_json()
        body = {
            "of": request.of,
            "pattern": request.pattern,
            "model": {key: each for key, each in job["model"].items() if key != "checkpoint"},
            "weights": preparation.fingerprint,
            "architecture": preparation.graph.groups.fingerprint,
            "data": job["data"],
            "samples": {
                name: digest_of(bench.part(name), len(bench.part(name)))
                for name in ("train", *_SPLITS)
            },
            "space": job["space"],
            "round_to_auto": preparation.multiple,
            "scoring": job["scoring"],
            "rung": job["rungs"][0],
            "quantization": job["quantization"],
            "objectives": job["objectives"],
            "device": bench.device.type,
            "versions": versions(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(body))
        return plain

    def score(self, criterion: str, seed: int, *, alone: bool) -> tuple[Ranking, Scoring]:
        """Return what a criterion says, and what that took; raises what criteria raise.

        With `alone` it shares no evidence with others, so that its seconds are its own.
        """
        evidence = self._anew() if alone else self.evidence
        begun = time.perf_counter()
        ranking: Ranking = (weigh if self._of_weights else gather)(criterion, evidence, seed=seed)
        return ranking, Scoring(time.perf_counter() - begun, ranking.fallen_back)

    def rank_by(self, criterion: str, ranking: Ranking) -> None:
        """Let leave what a criterion ranks last, in the networks that follow."""
        bench = self._evaluator.bench
        if isinstance(ranking, ScoreTable):
            bench.rank_by({criterion: ranking.scores})
        else:
            bench.weigh_by({criterion: ranking.saliencies})

    def network_of(self, policy: Policy, seed: int) -> str:
        """Return what tells apart the networks that a policy can become, as things are ranked.

        Where nothing is trained no seed matters, and criteria may agree. In training they may as
        well, unless the rest leaves by and by: then the criterion's order matters too. Nothing
        of it matters for single weights that the recovery chooses all by itself.
        """
        kept = self._evaluator.bench.plan.kept_units(policy)
        kind, body = self._recovery(policy), policy.to_json()
        is_read = kind is None or kind.reads_criterion or not policy.is_sparse
        sparsity = self._sparsification.sparsity(policy) if is_read else None
        if kind is None or not is_read or not (kind.begins_dense or kind.chooses_weights):
            del body["recipe"]["criterion"]
        return key_of(
            {
                "policy": body,
                "units": {name: each.tolist() for name, each in kept.items()},
                "weights": None if sparsity is None else digest(sparsity.chosen),
                "seed": seed if self.trains else None,
            }
        )

    def _recovery(self, policy: Policy) -> type[Recovery] | None:
        """Return what trains a policy's network; None where nothing does."""
        if not self.trains:
            return None
        rung = self._evaluator.bench.job.rungs[0]
        kind: type[Recovery] = plugins.load("recovery", recovery_of(policy, rung).name)
        return kind

    def outcome(self, policy: Policy, seed: int, known: Mapping[str, Outcome]) -> Outcome:
        """Carve, repair, recover and measure on V and T; a failure is an outcome as well.

        `known` are outcomes by network: what is among them is not measured again.
        """
        network, begun = "", time.perf_counter()
        try:
            network = self.network_of(policy, seed)
            if network in known:
                return known[network]
            item = WorkItem(0, policy, seed=seed)
            built = self._evaluator.network(item, torch.float32)
            measured, subject = self._measured(built, item)
        except Exception as error:
            return failed(error, network)
        assert subject.predictions is not None
        logits, labels = subject.predictions.logits, subject.predictions.labels
        wrong = (logits.argmax(dim=1) != labels).cpu().numpy()
        return Outcome(network, measured, wrong, time.perf_counter() - begun)

    def dense(self) -> Measured:
        """Measure the dense network as it is; raises `NonFiniteError`."""
        return self._measured(self._evaluator.bench.model, WorkItem(0, Policy()))[0]

    def _measured(self, network: nn.Module, item: WorkItem) -> tuple[Measured, Subject]:
        """Return all metrics by split, and the network with its outputs on the last of them."""
        judge = self._evaluator.judge
        measured: dict[str, Mapping[str, Measurement]] = {}
        for split in _SPLITS:
            subject = judge.subject(network, replace(item, split=split), torch.float32)
            measured[split] = judge.measure(subject)
        return measured, subject

    def _anew(self) -> Evidence:
        bench = self._evaluator.bench
        return Evidence(bench.model, bench.preparation.graph.groups, self._samples)


def failed(error: Exception, network: str = "") -> Outcome:
    """Return the outcome of what raised."""
    return Outcome(network, failure=failure_of(error))
