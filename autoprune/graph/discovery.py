"""Finding prunable groups with Torch-Pruning's dependency graph (Fang et al., CVPR 2023).

The library traces autograd and says which channels of which layers leave together. We
take its groups with full index maps, turn them into plain data, and freeze, with a reason
in words, each group whose members we cannot slice. `autoprune.graph.proof` then tries
every group that is left.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.errors import ModelError
from autoprune.graph.cost import CostTable
from autoprune.graph.group import GroupTable, PrunableGroup, Side, Slice
from autoprune.graph.layers import LayerTrace, Weighted, layer_cost, trace_layers
from autoprune.graph.network import NetworkGraph
from autoprune.policy import Policy


def discover(model: nn.Module, example: Tensor) -> NetworkGraph:
    """Trace `model` on `example` (batch, ...) and return its groups and costs.

    The model is not changed. Raises `ModelError` when the model cannot be run on the
    example or cannot be traced.
    """
    try:
        trace = trace_layers(model, example)
    except Exception as error:
        raise ModelError(
            f"the model does not run on an input of shape {tuple(example.shape)}: {error}; "
            "check that model and data fit together"
        ) from error
    # Tracing needs gradients on every parameter and leaves modes changed: use a copy.
    twin = copy.deepcopy(model).requires_grad_(True)
    dependency = _dependency_graph(twin, example)
    names: dict[nn.Module, str] = {module: name for name, module in twin.named_modules()}
    groups = GroupTable(_groups(dependency, names, trace))
    return NetworkGraph(groups, _cost_table(model, groups, trace), _foldable(dependency, names))


def _dependency_graph(twin: nn.Module, example: Tensor) -> tp.DependencyGraph:
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            outputs = twin(example)
            if not isinstance(outputs, Tensor) or not outputs.requires_grad:
                raise ValueError("its output is no tensor with a gradient")
            return tp.DependencyGraph().build_dependency(twin, example, verbose=False)
    except Exception as error:
        raise ModelError(
            f"the model cannot be traced ({type(error).__name__}: {error}); its forward pass "
            "must be differentiable and must not depend on the values of its input"
        ) from error


def _groups(
    dependency: tp.DependencyGraph, names: dict[nn.Module, str], trace: LayerTrace
) -> list[PrunableGroup]:
    order = {name: index for index, name in enumerate(trace.positions)}
    found = [
        _plain_group(group, names)
        for group in dependency.get_all_groups(root_module_types=[_ConvNd, nn.Linear])
    ]
    named = [_named_after_first(group, names, order) for group in found]
    return sorted(named, key=lambda group: order.get(group.name, len(order)))


def _plain_group(group: tp.Group, names: dict[nn.Module, str]) -> PrunableGroup:
    root = names[group[0].dep.target.module]
    units = len(group[0].idxs)
    slices: list[Slice] = []
    reason: str | None = "it has a single unit" if units == 1 else None
    for item in group.items:
        module = item.dep.target.module
        if isinstance(module, tp.ops._OutputOp):
            reason = reason or "it makes the network's output"
        if isinstance(module, nn.Parameter):
            reason = reason or "it touches a parameter that belongs to no layer"
        if not isinstance(module, nn.Module) or module not in names:
            continue
        is_output = _prunes_outputs(item.dep.handler)
        blocker = _blocker(module, names[module])
        entries = _entries(item.root_idxs, item.idxs, units)
        if blocker or entries is None:
            reason = reason or blocker or f"its units do not map evenly onto {names[module]!r}"
        else:
            side: Side = "out" if is_output or not isinstance(module, Weighted) else "in"
            slices.append(Slice(names[module], side, _size(module, side), entries))
    return PrunableGroup(root, units, tuple(slices), reason)


def _prunes_outputs(handler: Callable[..., object]) -> bool:
    return handler.__name__ == "prune_out_channels"


def _blocker(module: nn.Module, name: str) -> str | None:
    """Say why `module` cannot be sliced, or None if it can."""
    if isinstance(module, Weighted) and "weight" not in dict(
        module.named_parameters(recurse=False)
    ):
        return f"it touches {name!r}, whose weight is computed and cannot be sliced"
    if isinstance(module, _ConvNd):
        depthwise = module.groups == module.in_channels == module.out_channels
        if module.groups > 1 and not depthwise:
            return f"it touches {name!r}, a grouped convolution"
        return None
    if isinstance(module, nn.Linear | _BatchNorm):
        return None
    return f"it touches {name!r}, a {type(module).__name__}, which cannot be sliced yet"


def _size(module: nn.Module, side: Side) -> int:
    if isinstance(module, _ConvNd):
        return module.out_channels if side == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    assert isinstance(module, _BatchNorm)
    return module.num_features


def _entries(root_idxs: list[int], idxs: list[int], units: int) -> np.ndarray | None:
    """Turn parallel lists of unit and entry into shape (units, width); None if uneven."""
    rows = np.asarray(root_idxs, dtype=np.int64)
    columns = np.asarray(idxs, dtype=np.int64)
    if not np.array_equal(np.bincount(rows, minlength=units), np.full(units, len(rows) // units)):
        return None
    return columns[np.argsort(rows, kind="stable")].reshape(units, -1)


def _named_after_first(
    group: PrunableGroup, names: dict[nn.Module, str], order: dict[str, int]
) -> PrunableGroup:
    """Name the group after the layer with output units that runs first."""
    modules = {name: module for module, name in names.items()}
    makers = [
        each.module
        for each in group.slices
        if each.side == "out" and isinstance(modules[each.module], Weighted)
    ]
    first = min(makers, key=lambda name: order.get(name, len(order)), default=group.name)
    return PrunableGroup(first, group.units, group.slices, group.reason)


def _foldable(
    dependency: tp.DependencyGraph, names: dict[nn.Module, str]
) -> tuple[tuple[str, str], ...]:
    """Pairs of a convolution and the batch norm that alone reads its output."""
    pairs = []
    for module, node in dependency.module2node.items():
        if isinstance(module, _BatchNorm) and len(node.inputs) == 1:
            maker = node.inputs[0]
            if isinstance(maker.module, nn.Conv2d | nn.Conv1d) and len(maker.outputs) == 1:
                pairs.append((names[maker.module], names[module]))
    return tuple(pairs)


def _cost_table(model: nn.Module, groups: GroupTable, trace: LayerTrace) -> CostTable:
    layers = [
        layer_cost(name, model.get_submodule(name), positions)
        for name, positions in trace.positions.items()
    ]
    total_params = sum(parameter.numel() for parameter in model.parameters())
    # A tensor under two names is one tensor: count it once, as the parameters do.
    tensors = {id(each): each for each in model.state_dict(keep_vars=True).values()}.values()
    total_bytes = sum(each.numel() * each.element_size() for each in tensors)
    bare = CostTable(layers, groups)
    whole = bare.costs(Policy())
    return CostTable(
        layers,
        groups,
        fixed_params=total_params - whole.params,
        fixed_bytes=total_bytes - whole.size_bytes - 4 * (total_params - whole.params),
    )
