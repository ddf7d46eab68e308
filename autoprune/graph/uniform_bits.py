"""The same bits for every layer: what a deployment asks of networks that say nothing of it."""

from __future__ import annotations

from dataclasses import replace

from autoprune.graph.group import GroupTable
from autoprune.policy import LayerDecision, Policy, Quantize

_BITS: dict[Quantize, LayerDecision] = {
    "int8": LayerDecision(8, 8),
    "int8_weights": LayerDecision(8, 32),
    "int4_weights": LayerDecision(4, 32),
}


def with_bits(policy: Policy, groups: GroupTable, kind: Quantize | None) -> Policy:
    """Return the policy with every layer that it leaves at 32 bits at those of a deployment.

    Layers that cannot be quantised stay as they are, and what layers read that cannot. Of
    None, the policy itself. The result is canonical.
    """
    if kind is None:
        return policy
    asked = _BITS[kind]
    layers = dict(policy.layers)
    for layer in groups.layers:
        own = policy.layer(layer.name)
        if layer.reason is None and not own.is_quantised:
            reads = asked.activation_bits if layer.reads else 32
            layers[layer.name] = replace(own, weight_bits=asked.weight_bits, activation_bits=reads)
    return groups.canonical(replace(policy, layers=layers))
