"""Quantised networks as ONNX models, and how far outputs in whole numbers may be off.

Where two roundings follow one another, a value halfway may fall to either side, and what is
handed on between layers is rounded as well. So outputs are compared in root mean square, as a
multiple of what rounding the inputs of layers itself changes about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoprune.contracts.exporter import Candidate
from autoprune.errors import ExportError
from autoprune.exporters._onnx_file import converted

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 4.0
UNIT = "times what the rounding of inputs changes"
# As a share of the outputs, below which rounding changes nothing that could be compared.
_FLOOR = 1e-4


def is_quantised(candidate: Candidate) -> bool:
    """Say whether a layer has fewer than 32 bits."""
    from autoprune.quantization.form import quantised_layers

    return bool(quantised_layers(candidate.network))


def written(candidate: Candidate, name: str) -> Any:
    """Return a quantised network in QDQ form, with dynamic batch, for the format `name`.

    Raises `ExportError` for one that is not quantised, and without the `onnx` extra.
    """
    if not is_quantised(candidate):
        raise ExportError(
            f"{name} writes quantised networks, and no layer of this one has fewer than "
            "32 bits; use --to onnx, or search with bits (space: mixed, or a rung with "
            "quantize: int8)"
        )
    from autoprune.runtimes.qdq import in_whole_numbers
    from autoprune.runtimes.single_precision import in_single_precision

    network, example = candidate.network, candidate.example
    samples = example if candidate.samples is None else candidate.samples
    single = converted(in_single_precision(network), example)
    import onnx

    return onnx.load_from_string(in_whole_numbers(single.SerializeToString(), network, samples))


def difference(outputs: Tensor, candidate: Candidate) -> float:
    """Return the distance from a network's outputs in units of what rounding changes."""
    import torch

    from autoprune.runtimes.single_precision import in_single_precision

    with torch.inference_mode():
        expected = candidate.network(candidate.example)
        single = in_single_precision(candidate.network)(candidate.example)
    least = _FLOOR * _size(expected)
    return _size(outputs - expected) / max(_size(single - expected), least)


def _size(outputs: Tensor) -> float:
    """Return the root mean square."""
    return float(outputs.double().square().mean().sqrt())
