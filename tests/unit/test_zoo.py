"""Published architectures: whatever policy, the carved network is the masked one."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.policy import Policy
from autoprune.surgery.examination import examine
from autoprune.surgery.plan import Plan
from tests.carving import difference, outputs_of, policies, stored_bytes
from tests.zoo import ENTRIES, entry

# Small, and together every kind of connection.
QUICK = (
    "cifar_resnet20", "cifar_resnet20_lambda", "cifar_dpn", "cifar_shufflenet",
    "cifar_pnasnet_a", "shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1", "vit",
    "swin", "mixer", "deit_tiny_distilled_patch16_224", "lstm_bidirectional",
    "gru", "bert", "gpt2_lm", "llama_classifier",
)  # fmt: skip
# The largest relative rounding error of a network of the catalog is below a third of this.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", QUICK)
def test_a_small_network_is_carved_exactly(name: str) -> None:
    assert_pruned(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [each.name for each in ENTRIES if each.name not in QUICK])
def test_a_large_network_is_carved_exactly(name: str) -> None:
    assert_pruned(name)


def assert_pruned(name: str) -> None:
    network, example = entry(name).build()
    graph = examine(network, example).graph
    groups = graph.groups
    assert groups.prunable
    assert all(group.reason for group in groups if group.is_frozen)
    ranks = {group.name: -np.arange(group.units, dtype=float) for group in groups.prunable}
    plan = Plan(network, groups, {"l1": ranks})
    for policy in (Policy(), *policies(groups, 2)):
        carved = plan.carve(policy)
        expected = outputs_of(plan.mask(policy), example)
        assert difference(outputs_of(carved, example), expected) <= TOLERANCE
        costs = graph.costs.costs(policy)
        assert costs.params == sum(each.numel() for each in carved.parameters())
        assert costs.size_bytes == stored_bytes(carved)
