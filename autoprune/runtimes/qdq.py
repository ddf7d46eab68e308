"""From a quantised network to whole numbers in ONNX: pairs of QuantizeLinear, DequantizeLinear.

A runtime computes in whole numbers what stands between such pairs. Around quantised layers
they hold the network's own steps, zero points and whole numbers, so its outputs are those of
the network. For convolutions to hand whole numbers on (ONNX Runtime's QLinearConv), what they
write needs a pair as well, and so do additions, concatenations and pools between them; their
ranges are told on samples. Activations are unsigned, kernels signed bytes.

Fewer than 8 bits are bytes that stay within their bounds. Where kernels alone have 8 bits or
fewer, bytes are stored and floats are multiplied; 16 bits are floats rounded to half.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.policy import WHOLE_NUMBERS
from autoprune.quantization.form import decision_of, kernels_of, quantised_layers
from autoprune.runtimes.onnx_graph import OnnxGraph
from autoprune.runtimes.onnx_session import ranges_of
from autoprune.runtimes.qdq_kernels import layers_of, store_kernels
from autoprune.runtimes.qdq_pair import Pair
from autoprune.runtimes.qdq_region import Region

_MULTIPLIES = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Ranges = Mapping[str, tuple[float, float]]


def in_whole_numbers(model: bytes, network: nn.Module, samples: Tensor) -> bytes:
    """Return the ONNX model of a quantised network, from that of its form in single precision.

    `samples` (n, ...) tell the ranges of what has no step in `network`. Raises `ExportError` if
    a layer's kernel is not to be found in the model.
    """
    first = _Rewriting(model, network)
    untold = first.untold
    ranges = ranges_of(first.written(None), untold, samples) if untold else {}
    return _Rewriting(model, network).written(ranges)


def _check_all_found(graph: OnnxGraph, layers: Mapping[str, nn.Module], found: Set[str]) -> None:
    for name, layer in layers.items():
        kernels = (f"{name}.{each}" for each in kernels_of(layer))
        if name not in found and any(each in graph.constants for each in kernels):
            raise ExportError(
                f"{name}: its kernel changed on the way to ONNX, so its whole numbers are lost; "
                "batch norms must be folded before a network is quantised"
            )


class _Rewriting:
    """One pass over a graph."""

    def __init__(self, model: bytes, network: nn.Module) -> None:
        import onnx

        self._graph = OnnxGraph(onnx.load_from_string(model))
        layers = quantised_layers(network)
        self._names = layers_of(self._graph, layers)
        _check_all_found(self._graph, layers, set(self._names.values()))
        self._layers = {x: layers[name] for x, name in self._names.items()}
        pairs = {x: Pair.of(layer) for x, layer in self._layers.items()}
        reads = {x: pair for x, pair in pairs.items() if pair is not None}
        computed = {x for x in reads if decision_of(self._layers[x]).weight_bits <= WHOLE_NUMBERS}
        self._region = Region(self._graph, reads, computed)
        self._computed = computed
        # How tensors are rounded that are read as whole numbers.
        self._pairs: dict[str, Pair] = {}

    @property
    def untold(self) -> list[str]:
        """Tensors that are to be whole numbers and whose range no layer tells."""
        own = [name for name in self._region.whole if name not in self._region.sources]
        return [name for name in own if self._told(name) is None]

    def written(self, ranges: Ranges | None) -> bytes:
        """Return the rewritten model; without ranges only what layers read is rounded."""
        graph = self._graph
        whole = () if ranges is None else frozenset(self._region.whole)
        ranges = ranges or {}
        for name in graph.inputs:
            if name in whole:
                self._hand_on(name, ranges)
        for node in graph.nodes:
            self._read(node)
            graph.write(node)
            if node.output[0] in whole:
                self._hand_on(node.output[0], ranges)
        model: bytes = graph.save().SerializeToString()
        return model

    def _read(self, node: Any) -> None:
        """Let a node read what is rounded, and if it is that of a layer, whole numbers."""
        name = node.output[0]
        is_plain = node.op_type in _MULTIPLIES and name not in self._computed
        given = node.input[0] if node.input else ""
        node.input[:] = [
            self._floats(each, self._pairs[each], is_plain) if each in self._pairs else each
            for each in node.input
        ]
        if name not in self._layers:
            return
        layer = self._layers[name]
        pair = Pair.of(layer)
        if pair is not None and pair != self._pairs.get(given):
            node.input[0] = self._floats(node.input[0], pair, is_plain)
        elif WHOLE_NUMBERS < decision_of(layer).activation_bits < 32:
            node.input[0] = self._halved(node.input[0])
        store_kernels(self._graph, node, layer, None if pair is None else pair.step)
        if node.op_type == "MatMul":
            self._keep_apart(node)

    def _told(self, name: str) -> Pair | None:
        """Return the pair of a tensor where layers tell it; None where its range is needed."""
        wanted = self._region.wanted(name)
        if wanted and (wanted[0].bits == WHOLE_NUMBERS or self._region.is_alone(name)):
            return wanted[0]
        return None

    def _hand_on(self, name: str, ranges: Ranges) -> None:
        """Round a tensor for all that read it."""
        source = self._region.sources.get(name)
        pair = self._told(name) if source is None else self._pairs[source]
        if pair is None:
            wanted = self._region.wanted(name)
            pair = wanted[0].refined(*ranges[name]) if wanted else Pair.over(*ranges[name])
        self._pairs[name] = pair

    def _keep_apart(self, node: Any) -> None:
        """Keep ONNX Runtime from adding a bias within a product: it does that in floats."""
        layer = self._names[node.output[0]]
        for reader in self._graph.readers(node.output[0]):
            for place, name in enumerate(reader.input):
                if reader.op_type == "Add" and name.rpartition(".")[0] == layer:
                    bias = self._graph.constants[name]
                    reader.input[place] = self._graph.constant(f"{name}_apart", bias[None, None])

    def _floats(self, name: str, pair: Pair, is_plain: bool) -> str:
        """Round a tensor and return, as floats again, what is read instead of it.

        Next to a DequantizeLinear ONNX Runtime rounds kernels on its own; where they have more
        bits, it is to see floats alone.
        """
        from onnx import TensorProto

        graph, mark = self._graph, f"{name}_{pair.bits}_{pair.step:.9g}_{pair.zero}"
        output = f"{mark}_plain" if is_plain else f"{mark}_floats"
        if output in graph.written:
            return output
        step = graph.constant(f"{mark}_step", np.array(pair.step, np.float32))
        zero = graph.constant(f"{mark}_zero", np.array(pair.zero, np.uint8))
        whole = self._whole(name, mark, pair, step, zero)
        if not is_plain:
            return graph.add("DequantizeLinear", [whole, step, zero], output)
        offset = graph.constant(f"{mark}_offset", np.array(pair.zero, np.float32))
        cast = graph.add("Cast", [whole], f"{mark}_cast", to=TensorProto.FLOAT)
        moved = graph.add("Sub", [cast, offset], f"{mark}_moved")
        return graph.add("Mul", [moved, step], output)

    def _whole(self, name: str, mark: str, pair: Pair, step: str, zero: str) -> str:
        """Round a tensor to unsigned bytes, once."""
        graph, output = self._graph, f"{mark}_whole"
        if output in graph.written:
            return output
        if pair.bits == WHOLE_NUMBERS:
            return graph.add("QuantizeLinear", [name, step, zero], output)
        free = graph.add("QuantizeLinear", [name, step, zero], f"{mark}_free")
        least = graph.constant("least", np.array(0, np.uint8))
        most = graph.constant(f"most_{pair.bits}", np.array(2**pair.bits - 1, np.uint8))
        return graph.add("Clip", [free, least, most], output)

    def _halved(self, name: str) -> str:
        """Round a tensor to half precision, once; return what is read instead of it."""
        from onnx import TensorProto

        graph, output = self._graph, f"{name}_half_floats"
        if output in graph.written:
            return output
        half = graph.add("Cast", [name], f"{name}_half", to=TensorProto.FLOAT16)
        return graph.add("Cast", [half], output, to=TensorProto.FLOAT)
