"""The pruned network with the dense network's own weights, as its policy carves it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from autoprune.contracts.exporter import Cut

if TYPE_CHECKING:
    from torch import Tensor, nn


def carved_dense(cut: Cut, numbers: Collection[tuple[str, int]] = ()) -> nn.Module:
    """Return what a policy of units leaves of the dense network, in eval mode, without repair.

    `numbers` are those of `cut.kept` that modules go on remembering as they were.
    """
    from autoprune.surgery.plan import carved, tensors_of

    factors: dict[str, float] = {}
    for name, kept in cut.groups.kept_units(cut.policy).items():
        for tensor, factor in cut.groups[name].factors(kept).items():
            factors[tensor] = factors.get(tensor, 1.0) * factor
    kept_entries = {place: each for place, each in cut.kept.items() if place not in numbers}
    return carved(cut.dense, tensors_of(cut.dense), kept_entries, factors).eval()


def works_without(cut: Cut, example: Tensor, numbers: Collection[tuple[str, int]]) -> bool:
    """Say whether the pruned network computes the same where nobody corrects some numbers."""
    import torch

    with torch.inference_mode():
        expected: Tensor = carved_dense(cut)(example)
        try:
            outputs: Tensor = carved_dense(cut, numbers)(example)
        except Exception:  # whatever a network raises whose sizes are wrong
            return False
    return outputs.shape == expected.shape and torch.equal(outputs, expected)
