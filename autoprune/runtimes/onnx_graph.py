"""An ONNX graph that is being rewritten: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

from typing import Any

import numpy as np


class OnnxGraph:
    """The nodes of a model in the order in which they run, and those that are to replace them.

    `write` and `add` append nodes, whose outputs are in `written`; `save` puts them in place.
    """

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.model = model
        self.nodes = list(model.graph.node)
        self.constants: dict[str, np.ndarray] = {
            each.name: numpy_helper.to_array(each) for each in model.graph.initializer
        }
        self.inputs = {each.name for each in model.graph.input}
        self.results = {each.name for each in model.graph.output}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self.written: set[str] = set()
        self._new: list[Any] = []

    def readers(self, tensor: str) -> list[Any]:
        """Return the nodes that read a tensor."""
        return self._readers.get(tensor, [])

    def constant(self, name: str, value: np.ndarray) -> str:
        """Keep an array under a name of its own and return the name."""
        self.constants[name] = value
        return name

    def write(self, node: Any) -> None:
        """Append a node."""
        self._new.append(node)
        self.written.update(node.output)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a new node and return its output."""
        from onnx import helper

        self.write(helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def save(self) -> Any:
        """Return the model with the new nodes and the constants that they read."""
        from onnx import numpy_helper

        graph = self.model.graph
        for node in self._new:
            # Where a node came from: half of a small file, and paths of this machine.
            del node.metadata_props[:]
        read = {name for node in self._new for name in node.input} | self.results
        constants = [
            numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if name in read
        ]
        for field, content in (("node", self._new), ("initializer", constants)):
            del getattr(graph, field)[:]
            getattr(graph, field).extend(content)
        del graph.value_info[:]
        return self.model
