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

from autoprune.tracing.ties import Ids
from autoprune.tracing.trace import Attribute, Trace

REFRESHED = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RNNBase, _ConvNd, _BatchNorm)
"""Modules whose sizes carving reads off their tensors."""


def attributes(trace: Trace) -> list[Attribute]:
    """Return the numbers that must, or may have to, follow the kept units.

    Sizes that the same attribute gives to operations of the same form are tied: queries
    and keys that are reshaped to `self.head_dim` keep equally many places. Where several
    attributes have the value of several sizes, all pairs are returned, those first that
    match in the order of their appearance.
    """
    forms: dict[tuple[str, int], dict[str, Ids]] = {}
    for use in trace.sizes:
        module = trace.model.get_submodule(use.module)
        if isinstance(module, REFRESHED) or trace.ties.is_fixed(use.ids):
            continue
        if not any(_matching(module, use.size)):
            continue
        known = forms.setdefault((use.module, use.size), {})
        if use.form in known:
            trace.ties.tie(known[use.form], use.ids)
        known.setdefault(use.form, use.ids)
    found = list(trace.attributes)
    for (path, size), known in forms.items():
        distinct = _distinct(trace, list(known.values()))
        for place, (name, index) in enumerate(_matching(trace.model.get_submodule(path), size)):
            first = place % len(distinct)
            for ids in (*distinct[first:], *distinct[:first]):
                found.append(Attribute(path, name, index, ids))
    return found


def _distinct(trace: Trace, several: list[Ids]) -> list[Ids]:
    """Leave out labels that are equal to earlier ones."""
    keys = {tuple(trace.ties.roots(ids).tolist()): ids for ids in reversed(several)}
    return list(reversed(keys.values()))


def _matching(module: nn.Module, size: int) -> Iterator[tuple[str, int | None]]:
    """Yield name and place of every number of `module` that equals `size`."""
    for name, value in vars(module).items():
        if type(value) is int and value == size and not name.startswith("__"):
            yield name, None
        elif type(value) in (tuple, list):
            for index, each in enumerate(value):
                if type(each) is int and each == size:
                    yield name, index
