"""From a policy to its network: carved, repaired, recovered, quantised.

carve → reconstruct or generate → factorise → sparsify → recover → recalibrate → fold → quantise
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.recovery import Recovery
from autoprune.errors import PolicyError, RunError
from autoprune.evaluation.clock import Clock
from autoprune.evaluation.generation import load_net
from autoprune.evaluation.pruning_net import PruningNet
from autoprune.evaluation.recovery import Recoveries, obstacle, recovery_of
from autoprune.evaluation.repair import recalibrate
from autoprune.evaluation.sparsification import Sparsification
from autoprune.evaluation.workbench import Workbench, kept_network
from autoprune.job.spec import RungSpec
from autoprune.policy import LayerDecision, Policy, Repair
from autoprune.quantization.form import Steps
from autoprune.quantization.quantise import quantise
from autoprune.quantization.training import folded_steps, quantisation_aware
from autoprune.rebuild import shrunk
from autoprune.surgery.clone import cloned
from autoprune.surgery.folding import fold
from autoprune.surgery.low_rank import expanded, expanded_pairs, factorise
from autoprune.surgery.reconstruct import reconstruct
from autoprune.surgery.removal import Removal
from autoprune.surgery.sparsify import Sparsity, mask_of, settle, sparse_kernels

Inputs = Callable[[str, int, torch.dtype], list[Tensor]]


class Builder:
    """Makes the networks of one job; `inputs` gives so many inputs of a part, in batches.

    `files` is where weights that were generated lie, and checkpoints of long recoveries.
    """

    def __init__(self, bench: Workbench, inputs: Inputs, files: Path | None) -> None:
        self.bench = bench
        self.files = files
        self._inputs = inputs
        self._recoveries = Recoveries(bench, files)
        self._sparsification = Sparsification(bench, files)
        self._net: tuple[str, PruningNet] | None = None

    def build(self, item: WorkItem, dtype: torch.dtype, clock: Clock) -> nn.Module:
        """Return the network of an item in float32, in eval mode.

        Batch norms are recalibrated in `dtype`; they are folded where layers are quantised.
        Raises `NonFiniteError`, `PolicyError`.
        """
        policy, rung = item.policy, self.bench.job.rungs[item.rung]
        kind = self._recoveries.kind(policy, rung)
        steps: Steps = {}
        if kind is not None and kind.begins_dense and policy.removes:
            network = self._carved_after_training(item, kind, clock)
            self._recalibrate(network, policy, rung, dtype, clock, trained=True)
        else:
            network, sparsity = self._cut(policy, rung, clock)
            if kind is None:
                self._recalibrate(network, policy, rung, dtype, clock)
            elif policy.is_quantised and rung.quantize_aware:
                steps = self._recovered_rounding(network, item, sparsity, clock)
            else:
                with clock.phase("recover"):
                    self._recoveries.recover(network, item, sparsity)
                self._recalibrate(network, policy, rung, dtype, clock, trained=True)
        if policy.is_quantised:
            with clock.phase("quantise"):
                network = self._quantised(network, policy, rung, steps)
        return network.eval()

    def _cut(
        self, policy: Policy, rung: RungSpec, clock: Clock
    ) -> tuple[nn.Module, Sparsity | None]:
        """Return the network without what leaves, mended, and which single weights leave."""
        with clock.phase("carve"):
            network = self.bench.plan.carve(policy)
        self._mend(network, policy, rung, clock)
        if policy.factorises:
            with clock.phase("factorise"):
                self._factorise(network, policy, rung)
        return network, self._sparsified(network, policy, rung, clock)

    def _carved_after_training(
        self, item: WorkItem, kind: type[Recovery], clock: Clock
    ) -> nn.Module:
        """Return a network whose units leave after a training that prepared for it.

        Raises `PolicyError` where such a recovery does not go with the policy.
        """
        bench, policy, rung = self.bench, item.policy, self.bench.job.rungs[item.rung]
        if reason := obstacle(kind, policy, rung):
            named = recovery_of(policy, rung).name
            raise PolicyError(f"recovery {named!r} {reason}; take another, such as finetune")
        network = cloned(bench.model, {})
        removal = Removal(bench.plan, policy, bench.preparation.scores)
        with clock.phase("recover"):
            self._recoveries.recover(network, item, removal=removal)
        with clock.phase("carve"):
            return removal.carve(network)

    def _sparsified(
        self, network: nn.Module, policy: Policy, rung: RungSpec, clock: Clock
    ) -> Sparsity | None:
        """Let single weights leave, unless the recovery chooses them; return which ones do."""
        if not policy.is_sparse:
            return None
        with clock.phase("sparsify"):
            sparsity = self._sparsification.sparsity(policy)
            kind = self._recoveries.kind(policy, rung)
            if sparsity is not None and not (kind is not None and kind.chooses_weights):
                solves = _repair(policy, rung) in ("ridge", "both")
                images = rung.ridge_images if solves else None
                self._sparsification.apply(network, policy, sparsity, images)
        return sparsity

    def _recovered_rounding(
        self, network: nn.Module, item: WorkItem, sparsity: Sparsity | None, clock: Clock
    ) -> Steps:
        """Train a network as it will be quantised; return its steps once it is folded."""
        rung, policy = self.bench.job.rungs[item.rung], item.policy
        with quantisation_aware(
            network,
            expanded(policy.layers),
            self._samples(),
            observer=self.bench.job.quantization.observer,
            learned=rung.quantize_aware == "lsq",
        ) as steps:
            with clock.phase("recover"):
                self._recoveries.recover(network, item, sparsity)
            # While it rounds: these are the statistics of the network that will be judged.
            self._recalibrate(network, policy, rung, torch.float32, clock, trained=True)
        return folded_steps(steps, network, self._pairs(policy))

    def _recalibrate(
        self,
        network: nn.Module,
        policy: Policy,
        rung: RungSpec,
        dtype: torch.dtype,
        clock: Clock,
        *,
        trained: bool = False,
    ) -> None:
        """Take the statistics of batch norms anew, where anything has changed.

        The untouched network keeps those that it was trained with; generated weights have none
        before.
        """
        changed = trained or policy.changes_weights
        is_wanted = changed and _repair(policy, rung) in ("bn", "both")
        if is_wanted or policy.recipe.pruning_net is not None:
            with clock.phase("repair"):
                recalibrate(network, self._inputs("train", rung.repair_images, dtype), dtype)

    def _factorise(self, network: nn.Module, policy: Policy, rung: RungSpec) -> None:
        """Make layers two of lower rank, closest on what the dense network reads there."""
        ranks = {name: each.rank for name, each in policy.layers.items() if each.rank}
        moments = self.bench.moments(rung.ridge_images)
        kept = self.bench.plan.kept_entries(policy)
        factorise(network, ranks, moments=moments, kept=kept)

    def stored(self, policy: Policy, weights: str) -> nn.Module:
        """Return a network that was built before, with the weights that are kept in a file."""
        if self.files is None:
            raise RunError("kept weights need a directory: give the evaluator `files`")
        return kept_network(self.bench, self.files, policy, weights)

    def form(self, policy: Policy) -> nn.Module:
        """Return a network of a policy's shapes, zeros and bits, whatever its other weights."""
        ranks = {name: LayerDecision(rank=each.rank) for name, each in policy.layers.items()}
        groups = self.bench.preparation.graph.groups
        network = shrunk(self.bench.model, groups, replace(policy, layers=ranks)).eval()
        # What runs faster without zeros depends on how many there are and in which pattern alone.
        sparse = sparse_kernels(groups, policy).items()
        settle(network, {x: mask_of(attrgetter(x)(network).abs(), each) for x, each in sparse})
        if policy.is_quantised:
            network = fold(network, self._pairs(policy)).eval()
            quantise(
                network,
                expanded(policy.layers),
                [self.bench.example],
                observer="min_max",
                weight_observer="min_max",
                rounding="nearest",
            )
        return network

    def _mend(self, network: nn.Module, policy: Policy, rung: RungSpec, clock: Clock) -> None:
        """Give a carved network better weights than those that were left, without training."""
        net = policy.recipe.pruning_net
        if net is not None:
            with clock.phase("generate"):
                self._generate(network, policy, net)
        elif _repair(policy, rung) in ("ridge", "both") and policy.removes:
            with clock.phase("reconstruct"):
                moments = self.bench.moments(rung.ridge_images)
                reconstruct(network, self.bench.plan, policy, moments)

    @torch.no_grad()
    def _generate(self, network: nn.Module, policy: Policy, name: str) -> None:
        """Replace the weights of a carved network by those that the net `name` generates."""
        if self.files is None:
            raise RunError("generated weights need a directory: give the evaluator `files`")
        if self._net is None or self._net[0] != name:
            self._net = name, load_net(self.bench.plan, self.files, name)
        for parameter, weight in self._net[1].weights(policy).items():
            network.get_parameter(parameter).copy_(weight)

    def _quantised(
        self, network: nn.Module, policy: Policy, rung: RungSpec, steps: Steps
    ) -> nn.Module:
        spec = self.bench.job.quantization
        folded = fold(network, self._pairs(policy)).eval()
        quantise(
            folded,
            expanded(policy.layers),
            self._samples(),
            observer=spec.observer,
            weight_observer=spec.weight_observer,
            # What was trained with its rounding was trained to be rounded to the nearest.
            rounding="nearest" if steps else policy.recipe.rounding or rung.rounding,
            steps=steps,
        )
        return folded

    def _samples(self) -> list[Tensor]:
        """Return the inputs that tell the ranges of what layers read."""
        return self._inputs("train", self.bench.job.quantization.images, torch.float32)

    def _pairs(self, policy: Policy) -> list[tuple[str, str]]:
        return expanded_pairs(self.bench.preparation.graph.foldable, policy.layers)


def _repair(policy: Policy, rung: RungSpec) -> Repair:
    return policy.recipe.repair or rung.repair
