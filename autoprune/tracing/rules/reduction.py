"""Operations that compute over whole dimensions: sums, norms, pooling, softmax."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.tracing.rules.registry import rule
from autoprune.tracing.shapes import Labels, unlabelled
from autoprune.tracing.ties import Ids
from autoprune.tracing.trace import Call, Trace

# A sum does not feel entries that are zero; all others count them.
_BLIND_TO_ZEROS = frozenset({"sum", "linalg_vector_norm", "norm"})


@rule(
    "sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "linalg_vector_norm",
    "norm", "prod", "any", "all", "argmax", "argmin", "logsumexp", "median",
)  # fmt: skip
def reduced(trace: Trace, call: Call) -> None:
    """Dimensions disappear; only a sum may lose entries on the way."""
    source = call.inputs[0]
    labels = trace.get(source)
    if len(call.inputs) > 1:  # the two-tensor form of max and min
        for each in call.inputs:
            trace.freeze_all(each, f"it passes through aten.{call.name}")
        return
    axes = _axes(call, source)
    for axis in axes:
        if call.name not in _BLIND_TO_ZEROS:
            trace.freeze(labels[axis], f"aten.{call.name} counts its units")
    for out in call.outputs:
        if out.dim() == source.dim():
            trace.put(out, [None if at in axes else ids for at, ids in enumerate(labels)])
        else:
            trace.put(out, [ids for at, ids in enumerate(labels) if at not in axes])


def _axes(call: Call, source: Tensor) -> list[int]:
    given = call.get("dim")
    if given is None or given == []:
        return list(range(source.dim()))
    return [axis % source.dim() for axis in (given if isinstance(given, list | tuple) else [given])]


@rule("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "sort", "topk")
def ranked(trace: Trace, call: Call) -> None:
    """Entries along one dimension are weighed against each other: it stays whole."""
    source = call["self"]
    labels = trace.get(source)
    axis = call.get("dim")
    axis = (-1 if axis is None else axis) % max(1, source.dim())
    if source.dim():
        trace.freeze(labels[axis], f"aten.{call.name} weighs its units against each other")
        labels[axis] = None
    for out in call.outputs:
        trace.put(out, list(labels))


@rule(
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "max_pool1d", "max_pool2d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_max_pool2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d",
    "_upsample_bilinear2d_aa", "upsample_bicubic2d", "_upsample_bicubic2d_aa",
    "upsample_linear1d", "_upsample_nearest_exact2d", "reflection_pad1d", "reflection_pad2d",
    "replication_pad1d", "replication_pad2d", "mkldnn_max_pool2d",
)  # fmt: skip
def spatial(trace: Trace, call: Call) -> None:
    """Work within each channel; the spatial dimensions stay whole."""
    source = call.inputs[0]
    digit = next(int(each) for each in reversed(call.name) if each.isdigit())
    labels = trace.get(source)
    first = source.dim() - digit
    for ids in labels[first:]:
        trace.freeze(ids, f"aten.{call.name} runs along it")
    for out in call.outputs:
        trace.put(out, [*labels[:first], *unlabelled(digit)])


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update",
)  # fmt: skip
def batch_norm(trace: Trace, call: Call) -> None:
    """Statistics per channel: scale, shift and running statistics go with the channel."""
    source: Tensor = call["input"]
    if isinstance(trace.module, _BatchNorm):
        trace.normalised(source)
    labels = trace.get(source)
    labels[1] = _affine(trace, call, labels[1])
    if call.get("running_mean") is None or call.get("training"):
        for axis in range(source.dim()):
            if axis != 1:
                trace.freeze(labels[axis], "statistics are computed over it")
    _put_first(trace, call, labels)


@rule("native_layer_norm")
def layer_norm(trace: Trace, call: Call) -> None:
    """Statistics over the last dimensions: exact only where a module's weights tell them."""
    source = call["input"]
    labels = trace.get(source)
    weight = call.get("weight")
    width = len(call["normalized_shape"])
    if weight is not None and width == 1 and trace.parameter(weight) is not None:
        labels[-1] = _affine(trace, call, labels[-1])
        _mask(trace, nn.LayerNorm, labels[-1:], weight)
    else:
        for ids in labels[-width:]:
            trace.freeze(ids, "it is normalised without weights of its own")
    _put_first(trace, call, labels)


@rule("native_group_norm")
def group_norm(trace: Trace, call: Call) -> None:
    """Statistics per block of channels: blocks, and channels within them, are units."""
    source = call["input"]
    labels = trace.get(source)
    weight = call.get("weight")
    if weight is not None and trace.parameter(weight) is not None:
        labels[1] = _affine(trace, call, labels[1])
        if labels[1] is not None:
            blocks, inner = trace.ties.split(labels[1], call["group"])
            trace.use(call, source, 1, blocks, call["group"])
            if blocks is not None:
                trace.kinds.append((blocks, "blocks"))
            _mask(trace, nn.GroupNorm, [inner], weight)
    else:
        trace.freeze(labels[1], "it is normalised without weights of its own")
    _put_first(trace, call, labels)


def _affine(trace: Trace, call: Call, ids: Ids | None) -> Ids | None:
    """Tie a normalised dimension to scale, shift and running statistics, where there are any."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.get(name) is not None:
            ids = trace.unify(ids, trace.get(call[name])[0])
    return ids


def _mask(trace: Trace, kind: type[nn.Module], labels: Labels, weight: Tensor) -> None:
    """Units may leave statistics only where the masked form can leave them out as well."""
    name = trace.parameter(weight)
    if isinstance(trace.module, kind) and name is not None:
        return
    for ids in labels:
        trace.freeze(ids, f"it is normalised outside a {kind.__name__}")


def _put_first(trace: Trace, call: Call, labels: Labels) -> None:
    """Label the normalised tensor; the statistics beside it stay unlabelled."""
    trace.put(call.outputs[0], labels)
