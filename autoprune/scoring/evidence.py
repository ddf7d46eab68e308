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


@dataclass(frozen=True, slots=True)
class Reading:
    """A place where a kernel reads a group: the dimension of its inputs that holds the channels,
    and of how many samples those inputs are.
    """

    group: str
    reader: Slice
    axis: int
    samples: int

    @property
    def kernel(self) -> str:
        """Name of the kernel that reads."""
        return self.reader.tensor

    def by_unit(self, inputs: Tensor) -> Tensor:
        """Return what is read of every unit, shape (samples, units, positions).

        What a unit has of several channels counts as positions.
        """
        read = inputs.movedim(self.axis, -1)
        if read.shape[0] != self.samples and read.dim() > 2 and read.shape[1] == self.samples:
            read = read.movedim(1, 0)  # tokens come first
        read = read.reshape(self.samples, -1, read.shape[-1])
        if self.reader.is_identity:
            return read.transpose(1, 2)
        entries = torch.from_numpy(self.reader.entries).to(inputs.device)
        gathered = read[..., entries.clamp(min=0)] * (entries >= 0)
        return gathered.movedim(1, 2).flatten(2)


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
        if self.samples is not None:
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
        pairs = ((layer.name, each) for layer in self.groups.layers for each in layer.kernels)
        named = (f"{layer}.{kernel}" if layer else kernel for layer, kernel in pairs)
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
                torch.autograd.backward(functional.cross_entropy(logits, labels, reduction="sum"))
                for name, each in totals.items():
                    found.setdefault(name, []).append(torch.stack(each).sum(dim=0).cpu())
                totals.clear()
        return {name: torch.cat(each).double().numpy() for name, each in found.items()}

    @cached_property
    def moments(self) -> Moments:
        """Second moments of what layers read, for linear systems; see `surgery.reconstruct`."""
        batches = (inputs for inputs, _ in self.batches())
        return Moments.gather(self.model, self.groups, batches, positions=_RIDGE_POSITIONS)

    def observed(self, fold: Fold) -> dict[str, dict[str, np.ndarray]]:
        """Return group → kernel that reads it → what `fold` keeps of every sample.

        Groups are missing that nothing reads where it can be seen. A kernel that reads twice
        is asked twice, and its samples stand one after the other.
        """
        found: dict[str, dict[str, list[Tensor]]] = {}

        def see(reading: Reading, inputs: Tensor) -> None:
            kept = fold(reading.by_unit(inputs.detach().float()))
            found.setdefault(reading.group, {}).setdefault(reading.kernel, []).append(kept.cpu())

        for inputs, _ in self.batches():
            with self._seen(see, len(inputs)), torch.no_grad():
                self.model(inputs)
        return {
            group: {tensor: torch.cat(each).double().numpy() for tensor, each in readers.items()}
            for group, readers in found.items()
        }

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
            # Of a convolution channels come second, of a linear layer last.
            axis = 1 if self._parameters[name].dim() > 2 else inputs.dim() - 1
            replaced = None
            for group, reader in self._readers[name]:
                if reader.size == inputs.shape[axis]:  # others are convolutions in groups
                    given = inputs if replaced is None else replaced
                    told = see(Reading(group, reader, axis, samples), given)
                    replaced = replaced if told is None else told
            return replaced

        with watching(self.model, self._readers, of_kernel):
            yield

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
            model.eval()
            for each in own:
                each.requires_grad_(parameters)
            yield
        finally:
            for each, earlier in zip(own, before, strict=True):
                each.requires_grad_(earlier)
            for module, mode in modes.items():
                module.training = mode


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
