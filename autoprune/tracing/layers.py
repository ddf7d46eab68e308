"""Finding the layers of a traced network whose kernels bits and ranks can be decided about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

from autoprune.graph.extent import Extent
from autoprune.graph.layer import Layer
from autoprune.tracing.families import Families
from autoprune.tracing.trace import Trace

_SINGLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Modules of several operations: their kernels have bits, what those read has not.
_COMPOSED = (nn.RNNBase, nn.MultiheadAttention)


def find_layers(trace: Trace, families: Families) -> Iterator[Layer]:
    """Yield every module with kernels, in the order of their first use."""
    kernels: dict[str, list[str]] = {}
    for name in sorted(trace.tensors, key=lambda name: trace.order.get(name, len(trace.order))):
        owner, _, kernel = name.rpartition(".")
        is_kernel = trace.tensors[name].dim() > 1 and not kernel.startswith("bias")
        if isinstance(trace.tensors[name], nn.Parameter) and is_kernel:
            kernels.setdefault(owner, []).append(kernel)
    owners = Counter(
        id(each) for module in trace.model.modules() for each in module.parameters(recurse=False)
    )
    for name, own in kernels.items():
        module = trace.model.get_submodule(name)
        tensors = [getattr(module, each, None) for each in own]
        is_shared = any(owners[id(each)] > 1 for each in tensors)
        reason = "its kernels are shared with another layer" if is_shared else _reason(module)
        outputs = tuple(_extent(trace, families, name, each, 0) for each in own)
        reads = isinstance(module, _SINGLE) and name in trace.called
        is_factorable = reads and reason is None and _is_matrix(module)
        inputs = _extent(trace, families, name, own[0], 1) if is_factorable else None
        yield Layer(name, tuple(own), outputs, inputs, reads, reason)


def is_plain(layer: nn.Module) -> bool:
    """Say whether a convolution or linear layer computes what its class in torch does."""
    for kind in _SINGLE:
        if isinstance(layer, kind):
            own, conv = type(layer), "_conv_forward"
            is_same = getattr(own, conv, None) is getattr(kind, conv, None)
            return is_same and own.forward is kind.forward
    return False


def _reason(module: nn.Module) -> str | None:
    """Return why the kernels of a module cannot be quantised."""
    if isinstance(module, parametrize.ParametrizationList) or parametrize.is_parametrized(module):
        return "its kernel is made from other parameters"
    if is_plain(module) or isinstance(module, _COMPOSED):
        return None
    return (
        f"{type(module).__name__} is none of the layers that can be: linear layers, "
        "convolutions, recurrent layers and attention of torch.nn"
    )


def _is_matrix(layer: nn.Module) -> bool:
    """Say whether a layer multiplies by one matrix: linear, or a 1×1 convolution."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1 and layer.weight[0, 0].numel() == 1
    return isinstance(layer, nn.Linear)


def _extent(trace: Trace, families: Families, module: str, own: str, dim: int) -> Extent:
    name = f"{module}.{own}" if module else own
    ids = trace.labelled(name)[dim]
    if ids is None or trace.ties.is_fixed(ids):
        return Extent(trace.tensors[name].shape[dim])
    return families.extent(ids)
