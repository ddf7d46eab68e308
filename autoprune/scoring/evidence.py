"""What criteria may know of a dense network, gathered when it is first asked for, and once.

    evidence = Evidence(model, graph.groups, Samples(inputs, labels))
    evidence.weights["conv1.weight"]            # values of parameters
    evidence.gates["conv1"]                     # (samples, units): dL/dm of a unit times m, m = 1
    evidence.observed(lambda x: x.mean(dim=2))  # whatever one wants to know of feature maps

Criteria of one job share an evidence, so two of them that need gradients cost one backward
pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TypeAlias

import numpy as np
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.contracts.criterion import Need
from autoprune.graph.group import GroupTable
from autoprune.scoring.channels import ChannelMoments
from autoprune.scoring.passes import Passes, Samples
from autoprune.scoring.reading import Reading
from autoprune.surgery.reconstruct import Moments

Fold: TypeAlias = Callable[[Tensor], Tensor]
"""Takes what is read of every unit, float32 (samples, units, positions); returns what is kept of
it for every sample, shape (samples, ...)."""


_RIDGE_POSITIONS = 40


class Evidence:
    """A dense network, its groups and samples; nobody may change them while it is in use."""

    def __init__(
        self, model: nn.Module, groups: GroupTable, samples: Samples | None = None
    ) -> None:
        self.model = model
        self.groups = groups
        self.samples = samples

    @cached_property
    def has(self) -> frozenset[Need]:
        """What this network and its samples offer of what a criterion may need."""
        found: set[Need] = set()
        if any(isinstance(each, _BatchNorm) and each.affine for each in self.model.modules()):
            found.add("batch_norm")
        if self.samples is not None and len(self.samples.inputs):
            found.add("inputs")
            if self.samples.labels is not None:
                found.add("labels")
            if self._passes.is_differentiable:
                found.add("gradients")
        return frozenset(found)

    @cached_property
    def weights(self) -> Mapping[str, np.ndarray]:
        """Every floating parameter by its name, float32, shared with the network on a CPU."""
        named = self.model.named_parameters(remove_duplicate=False)
        return {name: _array(each) for name, each in named if each.is_floating_point()}

    @cached_property
    def kernels(self) -> tuple[str, ...]:
        """Names of all kernels, in the order of the forward pass: their weights can be judged."""
        named = (name for layer in self.groups.layers for name in layer.tensors)
        return tuple(name for name in named if name in self.weights)

    @cached_property
    def gradients(self) -> Mapping[str, np.ndarray]:
        """The mean gradient of the loss over the samples, for every parameter, as `weights`."""
        return {name: _array(mean) for name, (mean, _) in self._derivatives.items()}

    @cached_property
    def fisher(self) -> Mapping[str, np.ndarray]:
        """The diagonal of the empirical Fisher information, for every parameter, as `weights`.

        Estimated from gradients of small batches B as the mean of |B| g_B², as is usual where a
        gradient per sample costs too much (Singh and Alistarh, WoodFisher, NeurIPS 2020).
        """
        return {name: _array(square) for name, (_, square) in self._derivatives.items()}

    @cached_property
    def gates(self) -> Mapping[str, np.ndarray]:
        """By how much the loss of every sample rises with a factor before every unit.

        That is Σ x · dL/dx over what is read of the unit, of all that read it (Molchanov et al.,
        Importance Estimation for Neural Network Pruning, CVPR 2019): shape (samples, units) for
        every prunable group that is read where it can be seen. Removing the unit changes the
        loss by minus that, to first order.
        """
        return self._labelled.gated(
            lambda logits, labels: functional.cross_entropy(logits, labels, reduction="sum")
        )

    @cached_property
    def contributions(self) -> Mapping[str, np.ndarray]:
        """By how much the logit of every sample's true class rises with a factor before every unit.

        As `gates`, of that logit instead of the loss: Σ x · dy/dx, shape (samples, units).
        """
        return self._labelled.gated(lambda logits, labels: logits.gather(1, labels[:, None]).sum())

    @cached_property
    def input_norms(self) -> Mapping[str, np.ndarray]:
        """The root mean square of every input channel over samples and positions, by kernel.

        Shape (input channels,), those of all groups of a convolution one after the other.
        Kernels are missing that cannot be watched: recurrent, transposed and embedding ones.
        """
        return {name: each.norm for name, each in self._channels.items()}

    @cached_property
    def input_variances(self) -> Mapping[str, np.ndarray]:
        """The variance of every input channel over samples and positions, as `input_norms`."""
        return {name: each.variance for name, each in self._channels.items()}

    @cached_property
    def moments(self) -> Moments:
        """Second moments of what layers read, for linear systems; see `surgery.reconstruct`.

        Of the layers that read a prunable group.
        """
        return self._moments(every=False)

    @cached_property
    def all_moments(self) -> Moments:
        """The same of every layer that can be solved, for criteria that judge single weights.

        Apart from `moments`, since the layers of both share a limit of memory.
        """
        return self._moments(every=True)

    def observed(self, fold: Fold) -> dict[str, dict[str, np.ndarray]]:
        """Return group → kernel that reads it → what `fold` keeps of every sample.

        Groups are missing that nothing reads where it can be seen. A kernel that reads twice
        is asked twice, and its samples stand one after the other.
        """
        return self._passes.observed(lambda reading, inputs: fold(reading.by_unit(inputs)))

    def planes(self, fold: Fold) -> dict[str, dict[str, np.ndarray]]:
        """Return as `observed` what `fold` keeps of planes (samples, units, channels, h, w).

        Missing are kernels that read no planes of two or more rows and columns, as images are:
        linear layers read tokens, and maps that are laid out in a row.
        """

        def of_planes(reading: Reading, inputs: Tensor) -> Tensor | None:
            planes = reading.planes(inputs)
            return None if planes is None else fold(planes)

        return self._passes.observed(of_planes)

    def batches(self, *, labelled: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels in batches; without labels, empty ones unless `labelled`."""
        passes = self._labelled if labelled else self._passes
        yield from passes.samples.batches()

    def network(self) -> nn.Module:
        """Return a copy of the network that may be changed and trained, in eval mode."""
        return copy.deepcopy(self.model).eval()

    @cached_property
    def _passes(self) -> Passes:
        if self.samples is None:
            raise ValueError("samples were asked for, and there are none: declare them in `needs`")
        return Passes(self.model, self.groups, self.samples)

    @property
    def _labelled(self) -> Passes:
        if self.samples is not None and self.samples.labels is None:
            raise ValueError("labels were asked for, and there are none: declare them in `needs`")
        return self._passes

    @cached_property
    def _derivatives(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        return self._labelled.derivatives()

    @cached_property
    def _channels(self) -> Mapping[str, ChannelMoments]:
        return self._passes.channels(self.kernels)

    def _moments(self, *, every: bool) -> Moments:
        batches = (inputs for inputs, _ in self.batches())
        return Moments.gather(
            self.model, self.groups, batches, positions=_RIDGE_POSITIONS, every=every
        )


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
