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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.contracts.criterion import Need
from autoprune.graph.group import GroupTable, Slice
from autoprune.scoring.channels import ChannelMoments
from autoprune.scoring.reading import Reading
from autoprune.scoring.watch import watching
from autoprune.surgery.reconstruct import Moments
from autoprune.tracing.example import logits_of

Fold: TypeAlias = Callable[[Tensor], Tensor]
"""Takes what is read of every unit, float32 (samples, units, positions); returns what is kept of
it for every sample, shape (samples, ...)."""

_BATCH = 64
_RIDGE_POSITIONS = 40


@dataclass(frozen=True)
class Samples:
    """Training samples as the network reads them, on its device: inputs (n, ...), labels (n,)."""

    inputs: Tensor
    labels: Tensor | None = None


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
            if self._is_differentiable:
                found.add("gradients")
        return frozenset(found)

    @cached_property
    def weights(self) -> Mapping[str, np.ndarray]:
        """Every floating parameter by its name, float32, shared with the network on a CPU."""
        return {name: _array(each) for name, each in self._parameters.items()}

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
        return self._gated(
            lambda logits, labels: functional.cross_entropy(logits, labels, reduction="sum")
        )

    @cached_property
    def contributions(self) -> Mapping[str, np.ndarray]:
        """By how much the logit of every sample's true class rises with a factor before every unit.

        As `gates`, of that logit instead of the loss: Σ x · dy/dx, shape (samples, units).
        """
        return self._gated(lambda logits, labels: logits.gather(1, labels[:, None]).sum())

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
        return self._observed(lambda reading, inputs: fold(reading.by_unit(inputs)))

    def planes(self, fold: Fold) -> dict[str, dict[str, np.ndarray]]:
        """Return as `observed` what `fold` keeps of planes (samples, units, channels, h, w).

        Missing are kernels that read no planes of two or more rows and columns, as images are:
        linear layers read tokens, and maps that are laid out in a row.
        """

        def of_planes(reading: Reading, inputs: Tensor) -> Tensor | None:
            planes = reading.planes(inputs)
            return None if planes is None else fold(planes)

        return self._observed(of_planes)

    def batches(self, *, labelled: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels in batches; without labels, empty ones unless `labelled`."""
        if self.samples is None or (labelled and self.samples.labels is None):
            raise ValueError("samples were asked for, and there are none: declare them in `needs`")
        inputs, labels = self.samples.inputs, self.samples.labels
        if labels is None:
            labels = torch.empty(len(inputs), 0)
        yield from zip(inputs.split(_BATCH), labels.split(_BATCH), strict=True)

    def network(self) -> nn.Module:
        """Return a copy of the network that may be changed and trained, in eval mode."""
        return copy.deepcopy(self.model).eval()

    def _moments(self, *, every: bool) -> Moments:
        batches = (inputs for inputs, _ in self.batches())
        return Moments.gather(
            self.model, self.groups, batches, positions=_RIDGE_POSITIONS, every=every
        )

    def _observed(
        self, look: Callable[[Reading, Tensor], Tensor | None]
    ) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, list[Tensor]]] = {}

        def see(reading: Reading, inputs: Tensor) -> None:
            kept = look(reading, inputs.detach().float())
            if kept is not None:
                readers = found.setdefault(reading.group, {})
                readers.setdefault(reading.kernel, []).append(kept.cpu())

        for inputs, _ in self.batches():
            with self._seen(see, len(inputs)), torch.no_grad():
                self.model(inputs)
        return {
            group: {tensor: torch.cat(each).double().numpy() for tensor, each in readers.items()}
            for group, readers in found.items()
        }

    def _gated(self, objective: Callable[[Tensor, Tensor], Tensor]) -> dict[str, np.ndarray]:
        """Return Σ x · df/dx of every sample and unit, f the sum of an objective over samples."""
        totals: dict[str, list[Tensor]] = {}

        def see(reading: Reading, inputs: Tensor) -> Tensor:
            # An alias: its gradient is what flows back through this reader alone.
            alias = inputs.view_as(inputs) if inputs.requires_grad else inputs.detach().clone()
            alias.requires_grad_(True)

            def add(gradient: Tensor) -> None:
                product = reading.by_unit(alias.detach() * gradient).sum(dim=2)
                totals.setdefault(reading.group, []).append(product)

            alias.register_hook(add)
            return alias

        found: dict[str, list[Tensor]] = {}
        with _learning(self.model, parameters=False), torch.enable_grad():
            for inputs, labels in self.batches(labelled=True):
                with self._seen(see, len(inputs)):
                    logits = logits_of(self.model(inputs)).float()
                total = objective(logits, labels)
                if total.requires_grad:  # not where no group is read where it can be seen
                    torch.autograd.backward(total)
                for name, each in totals.items():
                    found.setdefault(name, []).append(torch.stack(each).sum(dim=0).cpu())
                totals.clear()
        return {name: torch.cat(each).double().numpy() for name, each in found.items()}

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        named = self.model.named_parameters(remove_duplicate=False)
        return {name: each for name, each in named if each.is_floating_point()}

    @cached_property
    def _readers(self) -> dict[str, list[tuple[str, Slice]]]:
        """Kernel → the groups that it reads, and where in its inputs their units are."""
        found: dict[str, list[tuple[str, Slice]]] = {}
        for group in self.groups.prunable:
            for each in group.slices:
                if each.role == "in" and each.tensor in self._parameters:
                    found.setdefault(each.tensor, []).append((group.name, each))
        return found

    @contextmanager
    def _seen(
        self, see: Callable[[Reading, Tensor], Tensor | None], samples: int
    ) -> Iterator[None]:
        """Show `see` all that is read of groups, in a batch of so many samples."""

        def of_kernel(name: str, inputs: Tensor) -> Tensor | None:
            axis = self._channel_axis(name, inputs)
            replaced = None
            for group, reader in self._readers[name]:
                if reader.size == inputs.shape[axis]:  # others are convolutions in groups
                    given = inputs if replaced is None else replaced
                    told = see(Reading(group, reader, axis, samples, axes[name] == 1), given)
                    replaced = replaced if told is None else told
            return replaced

        axes = self._sample_axes
        with watching(self.model, axes, of_kernel):
            yield

    def _channel_axis(self, kernel: str, inputs: Tensor) -> int:
        # Of a convolution channels come second, of a linear layer last.
        return 1 if self._parameters[kernel].dim() > 2 else inputs.dim() - 1

    @cached_property
    def _channels(self) -> Mapping[str, ChannelMoments]:
        found: dict[str, ChannelMoments] = {}

        def see(name: str, inputs: Tensor) -> None:
            moments = found.setdefault(name, ChannelMoments())
            moments.add(inputs, self._channel_axis(name, inputs))

        for inputs, _ in self.batches():
            with watching(self.model, self.kernels, see), torch.no_grad():
                self.model(inputs)
        return found

    @cached_property
    def _sample_axes(self) -> dict[str, int]:
        """Kernel that reads groups → the dimension of its inputs, 0 or 1, that holds the samples.

        Batches of two sizes tell: one alone may be as long as there are tokens. What does not
        grow with the batch, as a table of positions does not, is of no sample and left out.
        """
        assert self.samples is not None
        shapes: dict[str, list[torch.Size]] = {}

        def see(name: str, inputs: Tensor) -> None:
            shapes.setdefault(name, []).append(inputs.shape)

        for places in ([0, -1], [0, -1, 0]):
            with watching(self.model, self._readers, see), torch.no_grad():
                self.model(self.samples.inputs[places])
        axes = {}
        for name, each in shapes.items():
            # A kernel that reads twice is seen twice in either batch.
            pairs = list(zip(each[: len(each) // 2], each[len(each) // 2 :], strict=False))
            for axis in (1, 0):
                grows = [len(x) > axis + 1 and 3 * x[axis] == 2 * y[axis] for x, y in pairs]
                if grows and all(grows):
                    axes[name] = axis
        return axes

    @cached_property
    def _derivatives(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Mean gradients, and |B| times the mean squares of those of batches, by parameter."""
        assert self.samples is not None
        total = {
            name: (torch.zeros_like(each), torch.zeros_like(each))
            for name, each in self._parameters.items()
        }
        with _learning(self.model, parameters=True), torch.enable_grad():
            for inputs, labels in self.batches(labelled=True):
                _forget(self.model)
                loss = functional.cross_entropy(logits_of(self.model(inputs)).float(), labels)
                given = torch.autograd.grad(
                    loss, list(self._parameters.values()), materialize_grads=True
                )
                share = len(inputs) / len(self.samples.inputs)
                for (mean, square), each in zip(total.values(), given, strict=True):
                    mean.add_(each, alpha=share)
                    square.addcmul_(each, each, value=share * len(inputs))
        return total

    @cached_property
    def _is_differentiable(self) -> bool:
        """Say whether the loss has a gradient with respect to what kernels hold."""
        assert self.samples is not None
        try:
            with _learning(self.model, parameters=True), torch.enable_grad():
                outputs = logits_of(self.model(self.samples.inputs[:2]))
                if not outputs.requires_grad:
                    return False
                torch.autograd.grad(
                    outputs.float().sum(), list(self._parameters.values()), allow_unused=True
                )
        except (RuntimeError, NotImplementedError):  # an operation without a derivative
            return False
        return True


@contextmanager
def _learning(model: nn.Module, *, parameters: bool) -> Iterator[None]:
    """Let parameters have gradients or none, in eval mode, and leave the model as it was."""
    own = [each for each in model.parameters() if each.is_floating_point()]
    before = [each.requires_grad for each in own]
    modes = {module: module.training for module in model.modules()}
    # Recurrent kernels of cuDNN have no derivative in eval mode.
    with torch.backends.cudnn.flags(enabled=not any(isinstance(x, nn.RNNBase) for x in modes)):
        try:
            _forget(model)
            for each in own:
                each.requires_grad_(parameters)
            yield
        finally:
            _forget(model)
            for each, earlier in zip(own, before, strict=True):
                each.requires_grad_(earlier)
            for module, mode in modes.items():
                module.training = mode


def _forget(model: nn.Module) -> None:
    """Put a model into eval mode, through training: some keep there what they have computed.

    What is kept of parameters with gradients hangs on a pass that is over.
    """
    model.train()
    model.eval()


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
