"""The survey: times of a network's layers, each alone, at many widths.

Times of a layer are no smooth function of its widths. On a CPU they jump at multiples of the
vector length, and a convolution of 15 channels can take twice as long as one of 16. So both
widths are walked through, each with the other one at its dense value, and one more point tells
how the two go together. Where every width would take too long, every second one of long axes is
enough, or every fourth, and so on. Each time is taken beside that of the dense layer, and that
one beside the first layer's, so that a machine that slows down meanwhile does not show.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from autoprune.runtimes import timing
from autoprune.runtimes.catalog import create
from autoprune.runtimes.layers import LayerKind, layer_kinds

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autoprune.runtimes.runtime import Runtime

_SECONDS = 5.0  # for the axes of all layers, about
_EAGER = {"torch_compile": "torch", "cuda_graph": "torch"}


def survey(network: nn.Module, example: Tensor, backend: str, threads: int) -> dict[str, Any]:
    """Return the milliseconds of a network and of its layers, as JSON.

    `whole` names the layers that the backend runs in whole numbers if they have them, and
    `skips_zeros` says whether it may gain from single weights that left. `layers` maps the names
    of modules to places in `grids`, one for every call. A grid holds the dense widths and their
    time, the widths and times along either axis, and the corner: two widths and their time.
    Layers of compiled networks and of CUDA graphs are timed in eager PyTorch: to compile every
    one would take minutes.
    """
    deployed = create(backend, threads=threads)
    with deployed.build(network, example) as runner:
        total = timing.alone(runner, precision=0.02, seconds=1.0).value
    kinds = layer_kinds(network, example)
    distinct = list(dict.fromkeys(each for calls in kinds.values() for each in calls))
    benches: list[_Bench] = []
    for kind in distinct:
        runtime = create(_EAGER.get(backend, backend), threads=threads)
        benches.append(_Bench(kind, runtime, benches[0] if benches else None))
    most = max((max(each.inputs, each.outputs) for each in distinct), default=1)
    while most > 1 and sum(each.seconds(most) for each in benches) > _SECONDS:
        most //= 2
    return {
        "total_ms": total,
        "grids": [each.grid(most) for each in benches],
        "whole": [x for x, calls in kinds.items() if calls[0].layer in deployed.whole_numbers],
        "skips_zeros": deployed.skips_zeros,
        "layers": {name: [distinct.index(x) for x in calls] for name, calls in kinds.items()},
    }


class _Bench:
    """Times one kind of layer beside its dense self; the corner tells how long a point takes."""

    def __init__(self, kind: LayerKind, runtime: Runtime, first: _Bench | None) -> None:
        self._kind = kind
        self._runtime = runtime
        self._dense = runtime.build(*kind.build(kind.inputs, kind.outputs))
        with self._dense as dense:
            if first is None:
                self._dense_ms = timing.alone(dense, precision=0.03, seconds=0.2).value
            else:
                with first._dense as reference:
                    found = timing.compare(dense, reference, precision=0.03, seconds=0.2)
                self._dense_ms = found.ratio.value * first._dense_ms
        widths = max(1, kind.inputs // 4), kind.step * max(1, kind.outputs // kind.step // 4)
        start = time.perf_counter()
        self._corner = [*widths, self._ms(*widths)]
        self._point_s = time.perf_counter() - start

    def seconds(self, most: int) -> float:
        """Return about how long `grid` takes."""
        return self._point_s * sum(len(each) for each in self._axes(most))

    def grid(self, most: int) -> dict[str, Any]:
        """Return the times along both axes, at about `most` points each."""
        inputs, outputs = self._axes(most)
        return {
            "inputs": self._kind.inputs,
            "outputs": self._kind.outputs,
            "dense_ms": self._dense_ms,
            "along_inputs": [inputs, [self._ms(each, self._kind.outputs) for each in inputs]],
            "along_outputs": [outputs, [self._ms(self._kind.inputs, each) for each in outputs]],
            "corner": self._corner,
        }

    def _axes(self, most: int) -> tuple[list[int], list[int]]:
        kind = self._kind
        return axis(kind.inputs, 1, most), axis(kind.outputs, kind.step, most)

    def _ms(self, inputs: int, outputs: int) -> float:
        narrow = self._runtime.build(*self._kind.build(inputs, outputs))
        with self._dense as reference, narrow as runner:
            found = timing.compare(runner, reference, precision=0.1, seconds=0.005)
        return found.ratio.value * self._dense_ms


def axis(full: int, step: int, most: int) -> list[int]:
    """Return the widths to time, ascending: `step`, `full`, and at most `most` between.

    Those between are multiples of `step` times a power of two.
    """
    stride = step
    while full // stride > most:
        stride *= 2
    return sorted({step, *range(stride, full, stride), full})
