"""What a teacher adds to the loss: its logits, features and attention maps.

    with Distillation(spec, student, teacher) as distillation:
        loss = distillation.loss(batch)

Layers are compared by name. `features` compare channel with channel: what carving keeps of the
dense network is known, so a narrower student is compared with those channels of its teacher
that it still has. That takes no adapter, which would have to be trained, checkpointed and
thrown away, and it is what a channel means: it began as a copy of its teacher's. Networks of
another origin have no such channels; `attention` maps fit any width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, normalize, softmax

from autoprune.contracts.recovery import Batch
from autoprune.errors import InputError
from autoprune.job.spec import DistillSpec
from autoprune.surgery.depth import Skipped
from autoprune.surgery.plan import Place


@dataclass(frozen=True)
class Known:
    """A network in eval or training mode, and which entries it has of the dense one's.

    `kept` is what `Plan.kept_entries` says; a network of another origin has none.
    """

    network: nn.Module
    kept: Mapping[Place, np.ndarray] = field(default_factory=dict)


class Distillation:
    """The loss of a student with a teacher, which is in eval mode and left as it is.

    `logits` gives the teacher's logits of a batch where they are known; the teacher then does
    not run. Layers that one of the two lost with a dropped block are not compared.
    """

    def __init__(
        self,
        spec: DistillSpec,
        student: Known,
        teacher: Known,
        logits: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        self.spec = spec
        self.student = student
        self.teacher = teacher
        self._logits = logits
        names = [
            name
            for name in dict.fromkeys((*spec.features, *spec.attention))
            if all(layer_of(each.network, name) is not None for each in (student, teacher))
        ]
        self._features = {
            name: _common(student, teacher, name) for name in spec.features if name in names
        }
        self._attention = [name for name in spec.attention if name in names]
        self._seen = tuple(_Outputs(each.network, names) for each in (student, teacher))

    def __enter__(self) -> Distillation:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._seen:
            each.close()

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the student's outputs on a batch."""
        target = self._target(batch)
        logits = self.student.network(batch.inputs).float()
        hard = cross_entropy(logits, batch.labels)
        total = distilled(hard, logits, target, self.spec)
        for name, channels in self._features.items():
            total = total + self.spec.feature_weight * self._feature_distance(name, channels)
        for name in self._attention:
            maps = [attention_map(name, each) for each in self._outputs(name)]
            total = total + self.spec.attention_weight * _distance(name, *maps)
        return total

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        if self._logits is not None:
            return self._logits(batch)
        logits: Tensor = self.teacher.network(batch.inputs)
        return logits.float()

    def _feature_distance(self, name: str, channels: Sequence[Tensor | None]) -> Tensor:
        mine, theirs = (
            each if chosen is None else each.index_select(1, chosen)
            for each, chosen in zip(self._outputs(name), channels, strict=True)
        )
        return _distance(name, mine, theirs)

    def _outputs(self, name: str) -> list[Tensor]:
        """Return the outputs of a layer in both networks, channels second.

        What kind of layer it is the student says: in its teacher it may have been folded.
        """
        layer = self.student.network.get_submodule(name)
        outputs = [each.of(name) for each in self._seen]
        return [each.movedim(channel_dim(layer, each), 1) for each in outputs]


def distilled(hard: Tensor, logits: Tensor, target: Tensor, spec: DistillSpec) -> Tensor:
    """Return the loss `hard` mixed with the distance of `logits` from a teacher's, `target`.

    Both are softened by the temperature T; T² keeps the gradient's size (Hinton et al., 2015).
    """
    soft = kl_div(
        log_softmax(logits / spec.temperature, dim=1),
        softmax(target / spec.temperature, dim=1),
        reduction="batchmean",
    )
    return (1 - spec.weight) * hard + spec.weight * spec.temperature**2 * soft


def attention_map(name: str, outputs: Tensor) -> Tensor:
    """Return where a layer's outputs (n, channels, ...) are strong: squares summed over
    channels, with norm 1, shape (n, places).

    Zagoruyko and Komodakis, ICLR 2017, equations 1 and 2. Raises `InputError` for outputs
    without places.
    """
    if outputs.dim() < 3:
        raise InputError(
            f"outputs of {name!r} have shape {tuple(outputs.shape[1:])}: an attention map needs "
            "places as well as channels; name a convolution, its batch norm, or a block"
        )
    return normalize(outputs.float().square().sum(1).flatten(1))


def channel_dim(layer: nn.Module, outputs: Tensor) -> int:
    """Return the dimension of a layer's channels: the last one of tokens, and behind linear
    layers and layer norms, else the second.
    """
    if isinstance(layer, nn.Linear | nn.LayerNorm):
        return -1
    if isinstance(layer, nn.Conv1d | nn.BatchNorm1d):
        return 1
    return -1 if outputs.dim() == 3 else 1


def layer_of(network: nn.Module, name: str) -> nn.Module | None:
    """Return the module of a name; None where it left with a dropped block, or never was."""
    try:
        module = network.get_submodule(name)
    except AttributeError:
        return None
    return None if isinstance(module, Skipped) else module


def _common(student: Known, teacher: Known, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the channels of a layer, in each of the two, that both have; None for all."""
    own, others = (each.kept.get((f"{name}.weight", 0)) for each in (student, teacher))
    if own is None and others is None:
        return None, None
    size = len(own if own is not None else others)  # type: ignore[arg-type]
    own, others = (np.ones(size, bool) if each is None else each for each in (own, others))
    both, device = own & others, next(student.network.parameters()).device
    mine, theirs = (torch.from_numpy(np.flatnonzero(both[each])) for each in (own, others))
    return mine.to(device), theirs.to(device)


def _distance(name: str, mine: Tensor, theirs: Tensor) -> Tensor:
    if mine.shape != theirs.shape:
        raise InputError(
            f"outputs of {name!r} have shape {tuple(mine.shape[1:])} in the network and "
            f"{tuple(theirs.shape[1:])} in its teacher, so that they cannot be compared; name "
            "another layer"
        )
    return mse_loss(mine.float(), theirs.float())


class _Outputs:
    """The outputs of some layers in the last forward pass."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self._last: dict[str, Tensor] = {}
        self._hooks = [
            network.get_submodule(name).register_forward_hook(partial(self._keep, name))
            for name in names
        ]

    def of(self, name: str) -> Tensor:
        """Return the outputs of a layer; raises `InputError` where it does not run by itself."""
        if name not in self._last:
            raise InputError(f"layer {name!r} is not called by itself; name one that is")
        return self._last[name]

    def close(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, name: str, _: nn.Module, __: Any, outputs: Any) -> None:
        self._last[name] = outputs[0] if isinstance(outputs, tuple) else outputs
