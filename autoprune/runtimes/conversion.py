"""From PyTorch to ONNX; carved versions of one network without converting each in full.

`torch.onnx.export` takes one to several seconds. Carved versions of a network differ from it
in the values and shapes of their tensors, so the first network's graph is kept as it was before
it was optimised; its tensors are replaced, and the same optimiser runs again: a few tenths of
a second. Of what else follows from widths, the groups of convolutions, padding and flattening
are replaced as well. There may be more, so every model must give the network's outputs before
it is used, and one that does not is converted in full.

A quantised network is converted as it is in single precision; whole numbers come in last.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.errors import ExportError
from autoprune.quantization.form import quantised_layers
from autoprune.runtimes.qdq import in_whole_numbers
from autoprune.runtimes.runtime import Runner
from autoprune.runtimes.single_precision import in_single_precision
from autoprune.runtimes.torch_runtime import evaluating

TOLERANCE = 1e-4
"""By how much outputs may differ, as a share of the largest one."""


def exported(network: nn.Module, example: Tensor, *, any_batch: bool = False) -> Any:
    """Return the ONNX program of a network, not optimised: inputs `input`, outputs `logits`.

    It takes batches like `example`, or with `any_batch` of every size. Raises `ExportError`
    for a network that PyTorch cannot convert.
    """
    # Where tensors lie, and in which layout, would leave traces in the graph.
    twin = copy.deepcopy(network).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    dynamic = ({0: torch.export.Dim("batch", min=1)},) if any_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                twin.eval(),
                (example.cpu().contiguous(),),
                dynamo=True,
                verbose=False,
                optimize=False,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=dynamic,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"PyTorch cannot convert the network to ONNX: {error}") from error
    assert program is not None
    return program


class Conversion:
    """Converts networks for one runtime.

    What was converted in full is the pattern of networks after it that have tensors of the
    same names.
    """

    def __init__(self) -> None:
        self._patterns: dict[frozenset[str], _Pattern] = {}

    def build(
        self,
        network: nn.Module,
        example: Tensor,
        samples: Tensor | None,
        load: Callable[[bytes], Runner],
    ) -> Runner:
        """Return `load(model)` of an ONNX model of a network, in whole numbers if it has them.

        Raises `ExportError` if even the model that was converted in full does not give the
        outputs of the network, before anything of it is rounded.
        """
        if not quantised_layers(network):
            return self._single(network, example, lambda model: load(without_origins(model)))
        single = self._single(in_single_precision(network), example, load)
        assert single.artifact is not None
        samples = example if samples is None else samples
        return load(in_whole_numbers(single.artifact, network, samples))

    def _single(
        self, network: nn.Module, example: Tensor, load: Callable[[bytes], Runner]
    ) -> Runner:
        """Return `load(model)` of a network that is not quantised."""
        pads = _Pads()
        with evaluating(network), pads:
            expected = network(example).float().cpu()
        runner = self._from_pattern(network, example, pads.seen, load, expected)
        if runner is not None:
            return runner
        program = exported(network, example)
        self._patterns[frozenset(_tensors(network))] = _Pattern(program, network)
        runner = load(_optimised(program))
        difference = _difference(runner, expected)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"outputs of the converted network differ by {difference:.1e} of the largest "
                f"one, allowed: {TOLERANCE:.0e}; use backend: torch"
            )
        return runner

    def _from_pattern(
        self,
        network: nn.Module,
        example: Tensor,
        pads: list[list[int]],
        load: Callable[[bytes], Runner],
        expected: Tensor,
    ) -> Runner | None:
        pattern = self._patterns.get(frozenset(_tensors(network)))
        if pattern is None:
            return None
        try:
            runner = load(_optimised(pattern.filled(network, example, pads)))
            return runner if _difference(runner, expected) <= TOLERANCE else None
        except Exception:  # whatever optimiser and runtimes say of shapes that do not fit
            return None


class _Pattern:
    """The graph of a network before it is optimised, without the network's tensors."""

    def __init__(self, program: Any, network: nn.Module) -> None:
        self._program = copy.copy(program)
        self._program.model = None
        self._proto = program.model_proto
        names = _tensors(network).keys()
        for each in self._proto.graph.initializer:
            if each.name in names:
                each.ClearField("raw_data")
        self._infer_widths()

    def _infer_widths(self) -> None:
        """Let two-dimensional targets of a reshape, as of a flatten, take what comes."""
        graph = self._proto.graph
        shapes = {x.name: x.type.tensor_type.shape.dim for x in graph.value_info}
        for node in graph.node:
            if node.op_type == "Reshape" and len(shapes.get(node.output[0], ())) == 2:
                _replace_input(graph, node, [shapes[node.output[0]][0].dim_value, -1])
        del graph.value_info[:]
        for each in graph.output:
            each.type.tensor_type.ClearField("shape")

    def filled(self, network: nn.Module, example: Tensor, pads: list[list[int]]) -> Any:
        """Return the program for inputs like `example`, with the `pads` of `network`."""
        import onnx
        import onnx_ir
        from onnx import numpy_helper

        tensors = _tensors(network)
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        graph, pad = proto.graph, iter(pads)
        dims = graph.input[0].type.tensor_type.shape.dim
        for dim, size in zip(dims, example.shape, strict=True):
            dim.dim_value = size
        for each in graph.initializer:
            if each.name in tensors:
                array = tensors[each.name].detach().cpu().contiguous().numpy()
                each.CopyFrom(numpy_helper.from_array(array, each.name))
        for node in graph.node:
            if node.op_type == "Conv" and node.input[1] in tensors:
                (group,) = (each for each in node.attribute if each.name == "group")
                layer = network.get_submodule(node.input[1].rpartition(".")[0])
                group.i = getattr(layer, "groups", group.i)
            elif node.op_type == "Pad":
                _replace_input(graph, node, next(pad))
        program = copy.copy(self._program)
        program.model = onnx_ir.from_proto(proto)
        return program


class _Pads(TorchDispatchMode):
    """Notes how every `pad` of a pass in inference mode pads, as ONNX writes it down."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[list[int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.pad:
            # PyTorch: before and after, from the last dimension to the first.
            pairs = [(0, 0)] * (args[0].dim() - len(args[1]) // 2)
            pairs += reversed(list(zip(args[1][::2], args[1][1::2], strict=True)))
            self.seen.append([*(x for x, _ in pairs), *(x for _, x in pairs)])
        return func(*args, **(kwargs or {}))


def _replace_input(graph: Any, node: Any, target: list[int]) -> None:
    """Make integers the second input of a node."""
    from onnx import numpy_helper

    node.input[1] = f"{node.output[0]}_widths"
    graph.initializer.append(numpy_helper.from_array(np.array(target), node.input[1]))


def _optimised(program: Any) -> bytes:
    program.optimize()
    model: bytes = program.model_proto.SerializeToString()
    return model


def without_origins(model: bytes) -> bytes:
    """Return a model without what its nodes were in PyTorch: paths, and half of a small file."""
    import onnx

    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        del node.metadata_props[:]
    stripped: bytes = proto.SerializeToString()
    return stripped


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _difference(runner: Runner, expected: Tensor) -> float:
    """Return the largest difference of outputs as a share of the largest one."""
    difference = (runner.outputs() - expected).abs().max() / expected.abs().max()
    return float(difference.nan_to_num(nan=float("inf")))
