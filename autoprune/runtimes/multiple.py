"""Which numbers of channels a runtime likes: a multiple worth rounding to.

Kernels work on 4, 8, 16 or 32 channels at once, and some runtimes lay tensors out in blocks of
them; a layer of 47 channels can take longer than one of 64.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoprune.runtimes import timing
from autoprune.runtimes.layers import LayerKind, layer_kinds

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autoprune.runtimes.runtime import Runtime
    from autoprune.runtimes.timing import Clock

_LARGEST = 32
_WORTH = 0.05  # of the time, for a larger multiple to be preferred
_LAYERS = 2
_PRECISION, _SECONDS = 0.03, 0.3  # of one comparison


@dataclass(frozen=True, slots=True)
class Preference:
    """`multiple` is the smallest one from which no larger one takes 5 % less time.

    `relative` is the table behind it: the time of layers whose widths are odd multiples of 1, 2,
    4, 8, …, equally wide in the mean, as a share of the first.
    """

    multiple: int
    relative: Mapping[int, float]


def preferred_multiple(
    runtime: Runtime, network: nn.Module, example: Tensor, *, clock: Clock = time.perf_counter
) -> Preference:
    """Time the widest of a network's heaviest layers at widths around multiples.

    Layers narrower than 8 channels and convolutions in groups do not count; without others no
    multiple is preferred. Takes a few seconds.
    """
    columns: dict[int, list[float]] = {}
    for kind in _heaviest(layer_kinds(network, example)):
        times = _times(kind, runtime, clock)
        for multiple, each in times.items():
            columns.setdefault(multiple, []).append(each / times[1])
    relative = {multiple: float(np.mean(each)) for multiple, each in columns.items()}
    return Preference(_smallest(relative), relative)


def _smallest(relative: Mapping[int, float]) -> int:
    for multiple in sorted(relative):
        larger = (share for each, share in relative.items() if each > multiple)
        if all(share > (1.0 - _WORTH) * relative[multiple] for share in larger):
            return multiple
    return 1


def _heaviest(kinds: Mapping[str, list[LayerKind]]) -> list[LayerKind]:
    """Return the widest kinds among those with at least half the work of the heaviest."""
    work: Counter[LayerKind] = Counter()
    for each in (kind for calls in kinds.values() for kind in calls):
        if not each.is_grouped and min(each.inputs, each.outputs) >= 8:
            work[each] += each.macs
    most = max(work.values(), default=0)
    heavy = [each for each, macs in work.items() if macs >= most / 2]
    return sorted(heavy, key=lambda each: each.outputs, reverse=True)[:_LAYERS]


def _times(kind: LayerKind, runtime: Runtime, clock: Clock) -> dict[int, float]:
    """Return the times at odd multiples of 1, 2, 4, …, in times of the whole layer.

    A channel is an output of one layer and an input of the next, so both widths count.
    """
    reference = runtime.build(*kind.build(kind.inputs, kind.outputs))

    def ratio(inputs: int, outputs: int) -> float:
        narrow = runtime.build(*kind.build(inputs, outputs))
        with reference, narrow:
            found = timing.compare(
                narrow, reference, precision=_PRECISION, seconds=_SECONDS, clock=clock
            )
        return found.ratio.value

    of_inputs, of_outputs = widths(kind.inputs), widths(kind.outputs)
    return {
        multiple: float(
            np.mean([ratio(each, kind.outputs) for each in of_inputs[multiple]])
            + np.mean([ratio(kind.inputs, each) for each in of_outputs[multiple]])
        )
        for multiple in of_inputs
        if multiple in of_outputs
    }


def widths(full: int) -> dict[int, tuple[int, ...]]:
    """Return pairs of widths ≤ `full` that are odd multiples of 1, 2, 4, …, around one middle.

    The middle is an odd multiple of the largest one, so it stands for that one alone.
    """
    largest = 1
    while 2 * largest <= min(_LARGEST, full // 4):
        largest *= 2
    middle = largest * (2 * ((3 * full // 4 - largest) // (2 * largest)) + 1)
    smaller = (2**power for power in range(largest.bit_length() - 1))
    return {each: (middle - each, middle + each) for each in smaller} | {largest: (middle,)}
