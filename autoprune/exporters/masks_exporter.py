"""Masks for `torch.nn.utils.prune`; checked by applying them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.exporter import Candidate, Cut, PolicyExporter
from autoprune.errors import ExportError
from autoprune.exporters._carving import carved_dense
from autoprune.exporters._channels import refuse, units_alone
from autoprune.seal import check_seal

if TYPE_CHECKING:
    from torch import Tensor, nn

_TOOL = "torch.nn.utils.prune"
_INSTEAD = "Use --to torch for the network itself"
RECIPE = """\
from safetensors.torch import load_file
from torch.nn.utils import prune
for name, mask in load_file(path).items():
    module, _, parameter = name.rpartition(".")
    prune.custom_from_mask(model.get_submodule(module), parameter, mask)
"""
"""How the masks in the file at `path` are applied to the dense network `model`."""


class Masks(PolicyExporter):
    """Safetensors file with a boolean mask, true for what stays, per parameter that loses any.

    Names and shapes are those of the dense network's parameters. With `path` and `model`:

        from safetensors.torch import load_file
        from torch.nn.utils import prune
        for name, mask in load_file(path).items():
            module, _, parameter = name.rpartition(".")
            prune.custom_from_mask(model.get_submodule(module), parameter, mask)

    The header has this `recipe`, and in `normalised_without` the layer and group norms whose
    inputs lose channels. They take the mean over zeros as well, unlike in the carved network;
    everywhere else the network computes what the carved one of the same weights does.
    """

    suffix: ClassVar[str] = ".safetensors"

    def write(self, source: Candidate, path: Path) -> None:
        """Write all masks, and in the header where they come from.

        Raises `ExportError` for what zeros cannot express: blocks, bits and ranks.
        """
        from safetensors.torch import save_file

        cut = _cut(source)
        header = {
            "autoprune": self.stamped(source.provenance),
            "recipe": RECIPE,
            "normalised_without": json.dumps(_norms(cut)),
        }
        save_file(_masks(cut), path, metadata=header)

    def check(self, source: Candidate, path: Path) -> float:
        """Apply the file's masks to a copy of the dense network, and run it beside the carved one.

        Normalisations over channels that left are computed without them in both. Returns the
        difference of outputs, relative to the largest, or to one where outputs are smaller.
        """
        import torch

        from autoprune.surgery.comparison import TOLERANCE

        check_seal(path)
        cut = _cut(source)
        masks = _read(path)
        _check_counts(path, masks, cut, source.network)
        network = _applied(path, masks, cut.dense)
        with torch.inference_mode():
            expected: Tensor = carved_dense(cut)(source.example)
            outputs: Tensor = _with_norms(network, cut)(source.example)
        scale = max(1.0, float(expected.abs().max()))
        error = float((outputs - expected).abs().max()) / scale
        if not error <= TOLERANCE:
            raise ExportError(
                f"{path.name}: outputs with these masks differ by {error:.2e} from those of the "
                f"pruned network, allowed: {TOLERANCE:.0e}. {_INSTEAD}"
            )
        return error


def _cut(source: Candidate) -> Cut:
    """Return the cut; raises `ExportError` for what zeros in parameters cannot express."""
    cut = units_alone(source, _TOOL, _INSTEAD)
    parametrized = [name for name, _ in cut.kept if ".parametrizations." in name]
    if parametrized:
        names = dict.fromkeys(each.partition(".parametrizations.")[0] for each in parametrized)
        refuse(_TOOL, [f"layer {name!r} is parametrized" for name in names], _INSTEAD)
    return cut


def _masks(cut: Cut) -> dict[str, Tensor]:
    """Return the mask of every parameter that loses entries; shared ones under each name."""
    import torch

    parameters = dict(cut.dense.named_parameters(remove_duplicate=False))
    masks: dict[int, Tensor] = {}
    for (name, dim), kept in cut.kept.items():
        old = parameters.get(name)
        if old is not None:
            mask = masks.setdefault(id(old), torch.ones(old.shape, dtype=torch.bool))
            mask &= torch.from_numpy(kept).view(-1, *[1] * (old.dim() - 1 - dim))
    return {name: masks[id(each)].clone() for name, each in parameters.items() if id(each) in masks}


def _norms(cut: Cut) -> list[str]:
    """Return the layer and group norms that lose channels."""
    from torch import nn

    kinds = nn.LayerNorm | nn.GroupNorm
    named = cut.dense.named_modules()
    places = ((name, each) for name, each in named if isinstance(each, kinds))
    return [name for name, _ in places if (f"{name}.weight".lstrip("."), 0) in cut.kept]


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"cannot read {path}: {error}") from error


def _check_counts(path: Path, masks: Mapping[str, Tensor], cut: Cut, pruned: nn.Module) -> None:
    """Raise `ExportError` unless masks fit, and leave exactly as many entries as there are."""
    import torch

    dense = dict(cut.dense.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in dense or mask.dtype != torch.bool or mask.shape != dense[name].shape:
            raise ExportError(f"{path.name}: the mask of {name!r} fits no parameter")
    left = {
        name: int(masks[name].sum()) if name in masks else x.numel() for name, x in dense.items()
    }
    counts = {name: x.numel() for name, x in pruned.named_parameters(remove_duplicate=False)}
    for name in left | counts:
        if left.get(name) != counts.get(name):
            raise ExportError(
                f"{path.name}: {left.get(name)} entries of {name} stay, "
                f"and the network has {counts.get(name)}"
            )


def _applied(path: Path, masks: Mapping[str, Tensor], dense: nn.Module) -> nn.Module:
    """Return a copy of the dense network with the file's masks, applied by the very recipe."""
    from torch.nn.utils import prune

    network = copy.deepcopy(dense).eval()
    exec(RECIPE, {"path": path, "model": network})
    for name in masks:  # ordinary parameters again, with zeros
        module, _, parameter = name.rpartition(".")
        prune.remove(network.get_submodule(module), parameter)
    return network


def _with_norms(network: nn.Module, cut: Cut) -> nn.Module:
    """Return the network with the normalisations of `_norms` computed over what is left."""
    from autoprune.surgery.masking import masked
    from autoprune.surgery.plan import tensors_of

    names = {f"{name}.weight".lstrip(".") for name in _norms(cut)}
    kept = {place: mask for place, mask in cut.kept.items() if place[0] in names}
    return masked(network, tensors_of(network), kept)
