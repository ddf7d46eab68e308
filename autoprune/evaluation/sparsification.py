"""Single weights of candidates leave: scored once per job, chosen per policy, made good."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.evaluation.keyed_file import KeyedFile, key_of
from autoprune.evaluation.workbench import Workbench
from autoprune.policy import Policy
from autoprune.scoring.gathering import weigh
from autoprune.surgery.reconstruct import LayerMoments
from autoprune.surgery.sparse_solve import solve_sparse
from autoprune.surgery.sparsify import Sparsity, settle, sparse_kernels


class Sparsification:
    """Makes the candidates of a workbench sparse.

    What single weights are worth is found out once per job by the first process that needs it,
    and read by all others from `files`; without those, once per process.
    """

    def __init__(self, bench: Workbench, files: Path | None) -> None:
        self.bench = bench
        self.files = files

    def sparsity(self, policy: Policy) -> Sparsity | None:
        """Return which weights of the carved network leave; None where all stay.

        Raises `PolicyError` for a criterion that does not judge single weights.
        """
        decisions = sparse_kernels(self.bench.preparation.graph.groups, policy)
        if not decisions:
            return None
        dense = self._of_criterion(policy.recipe.criterion)
        own = {name: dense[name] for name in decisions}
        return Sparsity(decisions, self.bench.plan.sliced(own, policy))

    @torch.no_grad()
    def apply(
        self, network: nn.Module, policy: Policy, sparsity: Sparsity, images: int | None
    ) -> None:
        """Make a carved network sparse, in place.

        With `images`, what stays of a kernel is corrected so that its layer computes nearly what
        it did, by the moments of what it reads on so many training images; those of layers
        which have none are only made zero elsewhere.
        """
        masks = sparsity.chosen
        if images is None:
            settle(network, masks)
            return
        moments = self.bench.moments(images, every=True)
        kept = self.bench.plan.kept_entries(policy)
        for name, mask in masks.items():
            layer, _, kernel = name.rpartition(".")
            known = moments.layers.get(layer) if kernel == "weight" else None
            if known is not None:
                own = network.get_submodule(layer)
                _correct(own, known.carved(kept.get((name, 1)), own), mask)
        settle(network, masks)

    def _of_criterion(self, name: str) -> Mapping[str, Tensor]:
        """Return what every weight of the dense network is worth, by the kernels' names."""
        known = self.bench.saliencies
        if name not in known:
            found = self._found(name) if self.files is None else self._shared(name, self.files)
            known[name] = {kernel: each.to(self.bench.device) for kernel, each in found.items()}
        return known[name]

    def _found(self, name: str) -> Mapping[str, Tensor]:
        return weigh(name, self.bench.evidence, seed=self.bench.job.seed).saliencies

    def _shared(self, name: str, files: Path) -> Mapping[str, Tensor]:
        job = self.bench.job
        what = {
            "saliencies": name,
            "seed": job.seed,
            "images": job.scoring.images,
            "data": job.data.model_dump(mode="json", by_alias=True),
            "weights": self.bench.preparation.fingerprint,
        }
        return KeyedFile(files, key_of(what)).made_once(lambda: self._found(name))


def _correct(layer: nn.Module, moments: LayerMoments, mask: Tensor) -> None:
    """Give what stays of a kernel the values that make its outputs closest to what they were."""
    weight, columns = layer.get_parameter("weight"), mask.flatten(1)
    if moments.has_bias:
        columns = torch.cat([columns, torch.ones_like(columns[:, :1])], dim=1)
    kernel = solve_sparse(moments, columns)
    if kernel is None:  # moments that are no numbers: what stays is left as it is
        return
    if moments.has_bias:
        layer.get_parameter("bias").copy_(kernel[:, -1])
        kernel = kernel[:, :-1]
    weight.copy_(kernel.reshape(weight.shape))
