"""Rebuilding a pruned network from an exported file.

network = autoprune.load("knee.safetensors")        # an nn.Module, in eval mode
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autoprune.errors import ExportError, ModelError, PolicyError
from autoprune.graph.group import GroupTable
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.quantization.form import attach
from autoprune.safetensors_header import KEY, read_header
from autoprune.seal import check_seal
from autoprune.sparse_storage import packed, unpacked
from autoprune.surgery.folding import fold
from autoprune.surgery.low_rank import expanded, expanded_pairs, factorise
from autoprune.surgery.plan import Plan

# Far beyond any sample; what is larger is damage, and would be allocated before it is noticed.
_MOST_INPUTS = 2**26


def save(network: nn.Module, header: str, path: Path) -> None:
    """Write a network's state, kernels without their zeros, and in the header a text."""
    # Copies: the format refuses tensors that share memory, as tied weights do.
    state = {
        name: each.detach().cpu().clone().contiguous()
        for name, each in packed(network.state_dict()).items()
    }
    save_file(state, path, metadata={KEY: header})


def load(path: str | Path) -> nn.Module:
    """Return the pruned network of a file written by `autoprune export --to torch`.

    The architecture is built by its name (or the user's import, which must be importable
    here), shrunk to the policy's sizes, and filled with the file's weights. Raises
    `ExportError` for a file that is missing, damaged or of another origin.
    """
    path = Path(path)
    header = read_header(path)
    if not header:
        raise ExportError(f"{path} was not written by autoprune: it has no autoprune header")
    check_seal(path)
    try:
        provenance = json.loads(header)
        spec = ModelSpec.model_validate({**provenance["model"], "checkpoint": None})
        groups = GroupTable.from_json(provenance["groups"])
        foldable = [(conv, norm) for conv, norm in provenance["foldable"]]
        policy = Policy.from_json(provenance["policy"])
        kept = {name: [int(x) for x in units] for name, units in provenance["kept"].items()}
        classes, shape = int(provenance["num_classes"]), tuple(provenance["input_shape"])
    except (ValueError, KeyError, TypeError, PolicyError) as error:
        raise ExportError(f"the autoprune header of {path} is damaged: {error}") from error
    with safe_open(str(path), framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        state = unpacked(stored)
    except ValueError as error:
        raise ExportError(f"the weights in {path} are damaged: {error}") from error
    _check_sizes(path, state, spec.num_classes or classes, shape)
    model = build_model(spec, classes, shape)
    try:
        network = shrunk(model, groups, policy, foldable, kept)
    except (AttributeError, IndexError, KeyError, PolicyError) as error:
        raise ExportError(f"the groups in {path} are not those of its model: {error}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"the weights in {path} do not fit its architecture: {error}") from error
    return network.eval()


def _check_sizes(
    path: Path, state: Mapping[str, Tensor], classes: int, shape: tuple[int, ...]
) -> None:
    """Refuse sizes that would be allocated for a network which the weights cannot belong to."""
    widest = max((size for each in state.values() for size in each.shape), default=0)
    is_flat = len(shape) == 1
    if classes > widest or math.prod(shape) > _MOST_INPUTS or (is_flat and shape[0] > widest):
        raise ExportError(
            f"the autoprune header of {path} is damaged: {classes} classes and inputs of "
            f"{list(shape)} cannot be those of its weights, whose longest side is {widest}"
        )


def shrunk(
    model: nn.Module,
    groups: GroupTable,
    policy: Policy,
    foldable: Iterable[tuple[str, str]] = (),
    kept: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> nn.Module:
    """Return `model` in the form that `policy` asks for.

    `kept` are the units that stay in groups where it matters which ones (`GroupTable.placed`);
    elsewhere, and without, the first ones do. Layers of lower rank are two. Where layers are
    quantised, the batch norms of the `foldable` pairs are folded, and layers have steps of one:
    the state of a network that was kept fits.
    """
    order = {group.name: -np.arange(group.units, dtype=float) for group in groups.prunable}
    for name, units in kept.items():
        order[name][list(units)] += len(order[name])
    network = Plan(model, groups, {policy.recipe.criterion: order}).carve(policy)
    factorise(network, {name: each.rank for name, each in policy.layers.items() if each.rank})
    if policy.is_quantised:
        network = fold(network.eval(), expanded_pairs(foldable, policy.layers))
        attach(network, expanded(policy.layers))
    return network
