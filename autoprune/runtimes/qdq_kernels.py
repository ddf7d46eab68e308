"""Which node of an ONNX graph is which quantised layer, and its kernels as whole numbers."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from autoprune.errors import ExportError
from autoprune.quantization.form import decision_of, kernels_of, step_name
from autoprune.runtimes.onnx_graph import OnnxGraph

_SCOPES = "pkg.torch.onnx.name_scopes"
_LARGEST_BIAS = 2.0**30
_MOST_EXACT = 64  # 255 * 64 * 2 is below 2**15, where x86 without VNNI saturates
_AWAY = 0.01  # of a step: what float32 leaves of a multiple is far nearer


def layers_of(graph: OnnxGraph, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return the layer of every node that has one's kernel, by the node's first output."""
    rows = {name: _Rows(layer) for name, layer in layers.items()}
    found = {}
    for node in graph.nodes:
        constants = [name for name in node.input if name in graph.constants]
        for layer in (*(x.rpartition(".")[0] for x in constants), _scope(node)):
            if layer in rows and any(rows[layer].place(graph.constants[x]) for x in constants):
                found[node.output[0]] = layer
    return found


def store_kernels(graph: OnnxGraph, node: Any, layer: nn.Module, read_step: float | None) -> None:
    """Let a node read the kernels of its layer from as few bytes as they have.

    Up to 8 bits are stored as signed bytes with a step for every output channel, 16 as half
    precision. With `read_step`, that of what the layer reads, whole numbers are multiplied;
    its bias then has 32 bits and the product of both steps, so that it is added to them.
    Raises `ExportError` if a kernel has anything but multiples of its steps.
    """
    bits, rows = decision_of(layer).weight_bits, _Rows(layer)
    for place, name in enumerate(node.input):
        found = rows.place(graph.constants[name]) if name in graph.constants else None
        if found is None or bits > 16:
            continue
        axis, steps = found
        if bits == 16:
            node.input[place] = _from_half(graph, name)
            continue
        _check_multiples(name, graph.constants[name] / _along(graph.constants[name], axis, steps))
        if read_step is None or axis == -1:
            node.input[place] = _floats(graph, name, axis, steps)
        else:
            steps = _finest(graph.constants[name], axis, steps)
            if len(node.input) > 2:
                steps = _that_hold(graph.constants[node.input[2]], steps, read_step)
                node.input[2] = _bias(graph, node.input[2], (steps * read_step).astype(np.float32))
            node.input[place] = _multiplied(graph, name, axis, steps)


class _Rows:
    """The rows of a layer's kernels, each an output channel, with their steps.

    ONNX may want a kernel transposed, its rows in another order, or several kernels as one
    array; every row is still there, and its step is found by its values.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._steps: dict[bytes, float] = {}
        for name, kernel in kernels_of(layer).items():
            steps = getattr(layer, step_name(name), None)
            rows = kernel.detach().cpu().contiguous().flatten(1).numpy()
            own = np.ones(len(rows), np.float32) if steps is None else steps.cpu().numpy()
            self._steps.update(zip(map(np.ndarray.tobytes, rows), own, strict=True))

    def place(self, array: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Return the axis along which an array has rows and nothing else, and their steps.

        With -1 they go along the last one. None: it has something else.
        """
        if array.ndim < 2:
            return None
        ways = [(0, array.reshape(len(array), -1)), (-1, array.reshape(-1, array.shape[-1]))]
        if array.ndim == 2:
            ways[1] = (1, np.ascontiguousarray(array.T))
        for axis, rows in ways:
            steps = [self._steps.get(each.tobytes()) for each in rows]
            if None not in steps:
                return axis, np.array(steps, np.float32)
        return None


def _scope(node: Any) -> str:
    """Return the name of the module whose operation a node was."""
    for each in node.metadata_props:
        if each.key == _SCOPES:
            return str((["", *ast.literal_eval(each.value)])[-2])
    return ""


def _check_multiples(name: str, ratios: np.ndarray) -> None:
    away = float(np.abs(ratios - np.clip(np.round(ratios), -127, 127)).max())
    if away > _AWAY:
        raise ExportError(
            f"{name} differs from multiples of its steps, by up to {away:.2g} of a step; kernels "
            "must be rounded (autoprune.quantization) before they become whole numbers"
        )


def _finest(array: np.ndarray, axis: int, steps: np.ndarray) -> np.ndarray:
    """Return the finest parts of steps with which a kernel's products are exact everywhere.

    It changes no kernel, but a bias is as coarse as the steps of few bits are. Kernels of 8 bits
    keep their steps.
    """
    whole = np.abs(np.round(array / _along(array, axis, steps)))
    most = whole.max(axis=tuple(x for x in range(array.ndim) if x != axis))
    parts = np.maximum(_MOST_EXACT // np.maximum(most, 1.0), 1.0)
    finest: np.ndarray = (steps / parts).astype(np.float32)
    return finest


def _that_hold(bias: np.ndarray, steps: np.ndarray, read_step: float) -> np.ndarray:
    """Return steps with which the bias fits into 32 bits.

    Wider ones are needed only where kernels are lost beside the bias in float32 as well.
    """
    least = np.abs(bias) / (_LARGEST_BIAS * read_step)
    wider: np.ndarray = np.maximum(steps, least).astype(np.float32)
    return wider


def _bias(graph: OnnxGraph, name: str, steps: np.ndarray) -> str:
    output = f"{name}_added"
    if output not in graph.written:
        whole = np.round(graph.constants[name] / steps).astype(np.int32)
        inputs = [graph.constant(f"{name}_whole", whole), graph.constant(f"{name}_steps", steps)]
        graph.add("DequantizeLinear", inputs, output, axis=0)
    return output


def _multiplied(graph: OnnxGraph, name: str, axis: int, steps: np.ndarray) -> str:
    """Store a kernel as signed bytes that are multiplied as such."""
    output = f"{name}_multiplied"
    if output not in graph.written:
        inputs = [
            graph.constant(f"{name}_whole", _whole(graph.constants[name], axis, steps)),
            graph.constant(f"{name}_steps", steps),
            graph.constant(f"{name}_zeros", np.zeros(len(steps), np.int8)),
        ]
        graph.add("DequantizeLinear", inputs, output, axis=axis)
    return output


def _floats(graph: OnnxGraph, name: str, axis: int, steps: np.ndarray) -> str:
    """Store a kernel as signed bytes that become floats as the model is loaded.

    A DequantizeLinear would be left for the passes, where whole numbers might be wanted.
    """
    from onnx import TensorProto

    output = f"{name}_floats"
    if output not in graph.written:
        array = graph.constants[name]
        whole = graph.constant(f"{name}_whole", _whole(array, axis, steps))
        along = graph.constant(f"{name}_steps", _along(array, axis, steps))
        cast = graph.add("Cast", [whole], f"{name}_cast", to=TensorProto.FLOAT)
        graph.add("Mul", [cast, along], output)
    return output


def _from_half(graph: OnnxGraph, name: str) -> str:
    """Store a kernel in half precision."""
    from onnx import TensorProto

    output = f"{name}_floats"
    if output not in graph.written:
        half = graph.constant(f"{name}_half", graph.constants[name].astype(np.float16))
        graph.add("Cast", [half], output, to=TensorProto.FLOAT)
    return output


def _whole(array: np.ndarray, axis: int, steps: np.ndarray) -> np.ndarray:
    whole: np.ndarray = np.round(array / _along(array, axis, steps)).astype(np.int8)
    return whole


def _along(array: np.ndarray, axis: int, steps: np.ndarray) -> np.ndarray:
    """Return the steps in a shape that goes with the array's."""
    if axis == -1:
        return steps.reshape(*array.shape[:-1], 1)
    shape = [1] * array.ndim
    shape[axis] = len(steps)
    return steps.reshape(shape)
