"""Passes of a network over samples, watched: forwards, and backwards where gradients are asked for.

Nothing of the network is changed by a pass, also where it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.graph.group import GroupTable, Slice
from autoprune.scoring.channels import ChannelMoments
from autoprune.scoring.reading import Reading
from autoprune.scoring.watch import watching
from autoprune.tracing.example import logits_of

_BATCH = 64


@dataclass(frozen=True)
class Samples:
    """Training samples as the network reads them, on its device: inputs (n, ...), labels (n,)."""

    inputs: Tensor
    labels: Tensor | None = None

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels in batches; without labels, empty ones."""
        inputs, labels = self.inputs, self.labels
        if labels is None:
            labels = torch.empty(len(inputs), 0)
        yield from zip(inputs.split(_BATCH), labels.split(_BATCH), strict=True)


class Passes:
    """Passes of `model` over `samples`; what is watched are the groups that its kernels read."""

    def __init__(self, model: nn.Module, groups: GroupTable, samples: Samples) -> None:
        self.model = model
        self.groups = groups
        self.samples = samples
        named = model.named_parameters(remove_duplicate=False)
        self._parameters = {name: each for name, each in named if each.is_floating_point()}

    def observed(
        self, look: Callable[[Reading, Tensor], Tensor | None]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return group → kernel that reads it → what `look` keeps of every sample."""
        found: dict[str, dict[str, list[Tensor]]] = {}

        def see(reading: Reading, inputs: Tensor) -> None:
            kept = look(reading, inputs.detach().float())
            if kept is not None:
                readers = found.setdefault(reading.group, {})
                readers.setdefault(reading.kernel, []).append(kept.cpu())

        for inputs, _ in self.samples.batches():
            with self._seen(see, len(inputs)), torch.no_grad():
                self.model(inputs)
        return {
            group: {tensor: torch.cat(each).double().numpy() for tensor, each in readers.items()}
            for group, readers in found.items()
        }

    def gated(self, objective: Callable[[Tensor, Tensor], Tensor]) -> dict[str, np.ndarray]:
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
            for inputs, labels in self.samples.batches():
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
                given = inputs if replaced is None else replaced
                own = _in_all_groups(reader, inputs.shape[axis])
                told = see(Reading(group, own, axis, samples, axes[name] == 1), given)
                replaced = replaced if told is None else told
            return replaced

        axes = self._sample_axes
        with watching(self.model, axes, of_kernel):
            yield

    def _channel_axis(self, kernel: str, inputs: Tensor) -> int:
        # Of a convolution channels come second, of a linear layer last.
        return 1 if self._parameters[kernel].dim() > 2 else inputs.dim() - 1

    def channels(self, kernels: Collection[str]) -> Mapping[str, ChannelMoments]:
        """Return moments of the channels that kernels read; some cannot be watched."""
        found: dict[str, ChannelMoments] = {}

        def see(name: str, inputs: Tensor) -> None:
            moments = found.setdefault(name, ChannelMoments())
            moments.add(inputs, self._channel_axis(name, inputs))

        for inputs, _ in self.samples.batches():
            with watching(self.model, kernels, see), torch.no_grad():
                self.model(inputs)
        return found

    @cached_property
    def _sample_axes(self) -> dict[str, int]:
        """Kernel that reads groups → the dimension of its inputs, 0 or 1, that holds the samples.

        Batches of two sizes tell: one alone may be as long as there are tokens. What does not
        grow with the batch, as a table of positions does not, is of no sample and left out.
        """
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

    def derivatives(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Mean gradients, and |B| times the mean squares of those of batches, by parameter."""
        total = {
            name: (torch.zeros_like(each), torch.zeros_like(each))
            for name, each in self._parameters.items()
        }
        with _learning(self.model, parameters=True), torch.enable_grad():
            for inputs, labels in self.samples.batches():
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

    @property
    def is_differentiable(self) -> bool:
        """Say whether the loss has a gradient with respect to what kernels hold."""
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


def _in_all_groups(reader: Slice, channels: int) -> Slice:
    """Return where units are among all channels that a kernel reads.

    A convolution in groups has its inputs' places once, and reads them in each of its groups.
    """
    if channels == reader.size:
        return reader
    firsts = range(0, channels, reader.size)
    places = [np.where(reader.entries < 0, -1, reader.entries + first) for first in firsts]
    return replace(reader, size=channels, entries=np.hstack(places))


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
