"""Whole modules with a rule of their own, because their kernels are fused.

The hidden units of a recurrent network go through every gate, layer and direction; the
heads of `nn.MultiheadAttention`, and the places within them, are units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from autoprune.tracing.shapes import Labels
from autoprune.tracing.ties import Ids
from autoprune.tracing.trace import Attribute, Product, Trace, Written

ModuleRule = Callable[[Trace, Any, Sequence[Any], Mapping[str, Any], Any], None]

_GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def recurrent(
    trace: Trace,
    module: nn.RNNBase,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Any,
) -> None:
    """Tie the hidden units of all layers and directions, which share one size."""
    source = args[0] if args else kwargs["input"]
    state = args[1] if len(args) > 1 else kwargs.get("hx")
    packed = isinstance(source, PackedSequence)
    values: Tensor = source.data if packed else source
    directions = 2 if module.bidirectional else 1
    hidden: Ids | None = trace.ties.fresh(module.hidden_size) if module.hidden_size > 1 else None
    below: Ids | None = trace.get(values)[-1]
    trace.attributes += [
        Attribute(trace.path[-1], name, None, ids)
        for name, ids in (("hidden_size", hidden), ("input_size", below))
        if ids is not None
    ]
    if module.proj_size:
        trace.freeze(hidden, "a recurrent network with projections has them")
        hidden = None
    steps = values.numel() // values.shape[-1]
    shape = steps, module.proj_size or module.hidden_size
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse")[:directions]:
            _cell(trace, module, f"l{layer}{suffix}", below, hidden, steps)
            _writes(trace, shape, hidden, values)
        below = None if hidden is None else np.tile(hidden, directions)
    for each in () if state is None else state if isinstance(state, tuple) else (state,):
        trace.unify(trace.get(each)[-1], hidden)
    sequence, last = output
    out = sequence.data if packed else sequence
    trace.put(out, [*[None] * (out.dim() - 1), below if out.shape[-1] > 1 else None])
    for each in last if isinstance(last, tuple) else (last,):
        trace.put(each, [*[None] * (each.dim() - 1), hidden])


def _cell(
    trace: Trace,
    module: nn.RNNBase,
    suffix: str,
    below: Ids | None,
    hidden: Ids | None,
    steps: int,
) -> None:
    gates = next(count for kind, count in _GATES.items() if isinstance(module, kind))
    made = None if hidden is None else np.tile(hidden, gates)
    for name, parameter in module.named_parameters(recurse=False):
        parts = name.split("_", 2)
        if parts[-1] != suffix or parts[0] not in ("weight", "bias"):
            continue
        labels = trace.get(parameter)
        trace.mark(labels[0], "out")
        trace.unify(labels[0], made)
        if parts[0] == "weight":
            trace.mark(labels[1], "in")
            trace.unify(labels[1], below if parts[1] == "ih" else hidden)
            trace.multiply(parameter, steps)


def attention(
    trace: Trace,
    module: nn.MultiheadAttention,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Any,
) -> None:
    """Split queries, keys and values into heads and places within a head."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs)
    head_ids = trace.ties.fresh(module.num_heads)
    query_ids, value_ids = (trace.ties.fresh(module.head_dim) for _ in range(2))
    if module.bias_k is not None or module.add_zero_attn:
        trace.freeze(np.concatenate([head_ids, query_ids, value_ids]), "keys are added")
    mask = given.get("attn_mask")
    if mask is not None and mask.dim() == 3:
        trace.freeze(head_ids, "every head has a mask of its own")
    query = trace.ties.product(head_ids, query_ids)
    made = {"q": query, "k": query, "v": trace.ties.product(head_ids, value_ids)}
    sources = {name[0]: given[name] for name in ("query", "key", "value")}
    _projections(trace, module, made, sources)
    weight = trace.get(module.out_proj.weight)
    trace.mark(weight[0], "out")
    trace.mark(weight[1], "in")
    trace.unify(weight[1], made["v"])
    out: Tensor = output[0]
    if module.out_proj.bias is not None:
        bias = trace.get(module.out_proj.bias)[0]
        trace.mark(bias, "out")
        trace.unify(weight[0], bias)
    trace.put(out, [*[None] * (out.dim() - 1), weight[0]])
    trace.writes(out)
    trace.kinds += [(head_ids, "heads"), (query_ids, "width"), (value_ids, "values")]
    trace.multiply(module.out_proj.weight, out.numel() // out.shape[-1])
    _count(trace, sources, head_ids, query_ids, value_ids)
    trace.attributes += [
        Attribute(trace.path[-1], "num_heads", None, head_ids),
        Attribute(trace.path[-1], "head_dim", None, query_ids),
    ]
    if weight[0] is not None:
        trace.attributes.append(Attribute(trace.path[-1], "embed_dim", None, weight[0]))


def _projections(
    trace: Trace,
    module: nn.MultiheadAttention,
    made: Mapping[str, Ids],
    sources: Mapping[str, Tensor],
) -> None:
    rows = {letter: each.numel() // each.shape[-1] for letter, each in sources.items()}
    for letter, ids in made.items():
        _writes(trace, (rows[letter], len(ids)), ids, sources[letter])
    if module.in_proj_weight is not None:
        labels = trace.get(module.in_proj_weight)
        trace.mark(labels[0], "out")
        trace.unify(labels[0], np.concatenate(list(made.values())))
        trace.mark(labels[1], "in")
        for each in sources.values():
            trace.unify(trace.get(each)[-1], labels[1])
        trace.multiply(module.in_proj_weight, sum(rows.values()) // 3)
    else:
        for letter, each in sources.items():
            parameter = getattr(module, f"{letter}_proj_weight")
            labels = trace.get(parameter)
            trace.mark(labels[0], "out")
            trace.unify(labels[0], made[letter])
            trace.mark(labels[1], "in")
            trace.unify(trace.get(each)[-1], labels[1])
            trace.multiply(parameter, rows[letter])
    if module.in_proj_bias is not None:
        bias = trace.get(module.in_proj_bias)[0]
        trace.mark(bias, "out")
        trace.unify(bias, np.concatenate(list(made.values())))


def _writes(trace: Trace, shape: tuple[int, int], ids: Ids | None, like: Tensor) -> None:
    """Note that the running module writes rows of entries, of the type of a tensor."""
    trace.written.append(Written(trace.path[-1], shape, (None, ids), like.element_size()))


def _count(trace: Trace, sources: Mapping[str, Tensor], heads: Ids, query: Ids, value: Ids) -> None:
    """Note the macs of scores and of their product with the values."""
    width = sources["q"].shape[-1]
    queries, keys = sources["q"].numel() // width, sources["k"].numel() // sources["k"].shape[-1]
    # Both are counted over the batch, which the product would square.
    pairs = queries * keys // trace.batch
    for ids in (query, value):
        labels: Labels = [None, heads, ids]
        trace.products.append(Product(trace.path[-1], (pairs, len(heads), len(ids)), tuple(labels)))


MODULE_RULES: dict[type[nn.Module], ModuleRule] = {
    nn.LSTM: recurrent,
    nn.GRU: recurrent,
    nn.RNN: recurrent,
    nn.MultiheadAttention: attention,
}
