"""Rebuilding a pruned network from an exported file.

network = autoprune.load("knee.safetensors")        # an nn.Module, in eval mode
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import nn

from autoprune.errors import ExportError, ModelError, PolicyError
from autoprune.graph.group import GroupTable
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.quantization.form import attach
from autoprune.surgery.folding import fold
from autoprune.surgery.low_rank import expanded, expanded_pairs, factorise
from autoprune.surgery.plan import Plan


def load(path: str | Path) -> nn.Module:
    """Return the pruned network of a file written by `autoprune export --to torch`.

    The architecture is built by its name (or the user's import, which must be importable
    here), shrunk to the policy's sizes, and filled with the file's weights. Raises
    `ExportError` for a file that is missing, damaged or of another origin.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = (file.metadata() or {}).get("autoprune")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ExportError(f"cannot read {path}: {error}") from error
    if header is None:
        raise ExportError(f"{path} was not written by autoprune: it has no autoprune header")
    try:
        provenance = json.loads(header)
        spec = ModelSpec.model_validate({**provenance["model"], "checkpoint": None})
        groups = GroupTable.from_json(provenance["groups"])
        foldable = [(conv, norm) for conv, norm in provenance["foldable"]]
        policy = Policy.from_json(provenance["policy"])
        classes, shape = provenance["num_classes"], tuple(provenance["input_shape"])
    except (ValueError, KeyError, TypeError, PolicyError) as error:
        raise ExportError(f"the autoprune header of {path} is damaged: {error}") from error
    model = build_model(spec, classes, shape)
    try:
        network = shrunk(model, groups, policy, foldable)
    except (AttributeError, IndexError, PolicyError) as error:
        raise ExportError(f"the groups in {path} are not those of its model: {error}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"the weights in {path} do not fit its architecture: {error}") from error
    return network.eval()


def shrunk(
    model: nn.Module,
    groups: GroupTable,
    policy: Policy,
    foldable: Iterable[tuple[str, str]] = (),
) -> nn.Module:
    """Return `model` in the form that `policy` asks for; which units go does not matter.

    Layers of lower rank are two. Where layers are quantised, the batch norms of the `foldable`
    pairs are folded, and layers have steps of one: the state of a network that was kept fits.
    """
    order = {group.name: -np.arange(group.units, dtype=float) for group in groups.prunable}
    network = Plan(model, groups, {policy.recipe.criterion: order}).carve(policy)
    factorise(network, {name: each.rank for name, each in policy.layers.items() if each.rank})
    if policy.is_quantised:
        network = fold(network.eval(), expanded_pairs(foldable, policy.layers))
        attach(network, expanded(policy.layers))
    return network
