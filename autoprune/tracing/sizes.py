"""Numbers that modules remember and that code uses as sizes: heads, widths, offsets.

Code that reshapes to `self.num_heads` or slices up to `self.width` breaks when units leave
unless the number follows. Which attribute a size came from cannot be seen, so every
attribute of the running module with the right value is a candidate; the proof keeps those
that make the pruned network right.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.tracing.trace import Attribute, Trace

REFRESHED = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RNNBase, _ConvNd, _BatchNorm)
"""Modules whose sizes carving reads off their tensors."""


def attributes(trace: Trace) -> list[Attribute]:
    """Return the numbers that must, or may have to, follow the kept units.

    Sizes that the same attribute gives to operations of the same form are tied: queries
    and keys that are reshaped to `self.head_dim` keep equally many places.
    """
    found: dict[tuple[str, str, int | None, str], Attribute] = {}
    for use in trace.sizes:
        module = trace.model.get_submodule(use.module)
        if isinstance(module, REFRESHED) or trace.ties.is_fixed(use.ids):
            continue
        for name, index in _matching(module, use.size):
            key = (use.module, name, index, use.form)
            if key in found:
                trace.ties.tie(found[key].ids, use.ids)
            else:
                found[key] = Attribute(use.module, name, index, use.ids)
    return [*trace.attributes, *found.values()]


def _matching(module: nn.Module, size: int) -> Iterator[tuple[str, int | None]]:
    """Yield name and place of every number of `module` that equals `size`."""
    for name, value in vars(module).items():
        if type(value) is int and value == size and not name.startswith("__"):
            yield name, None
        elif type(value) in (tuple, list):
            for index, each in enumerate(value):
                if type(each) is int and each == size:
                    yield name, index
