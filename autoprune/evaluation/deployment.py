"""Judging a quantised network as its target runs it: whole numbers instead of rounded floats."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from autoprune.contracts.objective import Subject
from autoprune.errors import ExportError
from autoprune.evaluation.judge import Judge
from autoprune.evaluation.workbench import Workbench
from autoprune.runtimes.catalog import create
from autoprune.runtimes.runtime import Runner, Runtime
from autoprune.trial import Deployment, Measurement

_BATCH = 50


class Deployer:
    """Converts networks for the target of a job, and judges their outputs."""

    def __init__(self, bench: Workbench, judge: Judge) -> None:
        self.bench = bench
        self.judge = judge
        self.target: str = bench.job.quantization.target
        self.runtime: Runtime = create(self.target, threads=1)

    def judged(
        self, network: nn.Module, subject: Subject
    ) -> tuple[dict[str, Measurement], Deployment]:
        """Return what the outputs of the deployed network tell, over the report split.

        `subject` is the same network in PyTorch. One that the target cannot be given is not
        measured, and the deployment says why.
        """
        remarks = tuple(self.runtime.remarks(network))
        try:
            runner = self._runner(network)
        except ExportError as error:
            note = f"not deployed on {self.target}: {error}"
            return {}, Deployment(self.target, notes=(note, *remarks))
        count = len(self.bench.dataset.report)
        inputs = self.judge.inputs("report", count, torch.float32)
        with runner:
            logits = torch.cat([runner.logits(batch) for batch in inputs]).to(self.bench.device)
        assert subject.predictions is not None
        predictions = replace(subject.predictions, logits=logits)
        measured = self.judge.of_predictions(replace(subject, predictions=predictions))
        size = len(runner.artifact or b"")
        return measured, Deployment(self.target, tuple(measured), remarks, size)

    def _runner(self, network: nn.Module) -> Runner:
        count = self.bench.job.quantization.images
        samples = torch.cat(self.judge.inputs("train", count, torch.float32)).cpu()
        # Targets run on the CPU, wherever the job does.
        return self.runtime.build(copy.deepcopy(network).cpu(), samples[:_BATCH], samples)
