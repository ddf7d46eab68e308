"""NNI: a config list of its pruners; checked by NNI's own arithmetic, without NNI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.contracts.exporter import Candidate, PolicyExporter
from autoprune.errors import ExportError
from autoprune.exporters._channels import Tied, ratio_for, tied_layers
from autoprune.seal import check_seal

if TYPE_CHECKING:
    from torch import nn

_INSTEAD = "Use --to torch for the network itself, or --to masks for its zeros"
# What NNI 3.0 has settings for, and what its ModelSpeedup was seen to replace rightly.
_KNOWN = frozenset({"Conv1d", "Conv2d", "Linear", "BatchNorm1d", "BatchNorm2d"})


class Nni(PolicyExporter):
    """JSON file with a `config_list` for the pruners of NNI 3.0 (config of version 3).

        import json, torch
        from nni.compression.pruning import L1NormPruner
        from nni.compression.speedup import ModelSpeedup

        pruner = L1NormPruner(model, json.load(open("knee.json"))["config_list"])
        _, masks = pruner.compress()
        pruner.unwrap_model()
        graph = torch.fx.symbolic_trace(model)
        ModelSpeedup(model, example_inputs, masks, graph_module=graph).speedup_model()

    NNI chooses the units, by the norms of their kernels; their numbers are the policy's. Layers
    that lose the same units share a `dependency_group_id`: without one, NNI masks each of them
    by itself, and only what all of them lose is removed. NNI wants an environment of its own
    (`pip install "autoprune[nni]"` in a fresh one); nothing here imports it.
    """

    suffix: ClassVar[str] = ".json"

    def write(self, source: Candidate, path: Path) -> None:
        """Write the config list, and in the key `autoprune` where it comes from.

        Raises `ExportError` for what NNI cannot express: blocks, bits, ranks, and units that
        are not the output channels of convolutions and linear layers.
        """
        body = {
            "config_list": [_entry(each) for each in _tied(source)],
            "autoprune": json.loads(self.stamped(source.provenance)),
        }
        path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")

    def check(self, source: Candidate, path: Path) -> float:
        """Count what NNI's rounding leaves of every layer, and compare with the network."""
        check_seal(path)
        config = _read(path)
        tied = _tied(source)
        wanted = {layer: each.kept for each in tied for layer in each.layers}
        sizes = {layer: each.units for each in tied for layer in each.layers}
        left: dict[str, int] = {}
        ties: set[frozenset[str]] = set()
        for entry in config:
            names, ratio = _checked(entry, path)
            for name in names:
                left[name] = sizes.get(name, 0) - removed_by_nni(sizes.get(name, 0), ratio)
            if "dependency_group_id" in entry:
                ties.add(frozenset(names))
        if left != wanted or ties != {frozenset(x.layers) for x in tied if len(x.layers) > 1}:
            raise ExportError(f"{path.name}: the config list is not that of the policy")
        _check_widths(source.network, left, path)
        return 0.0


def removed_by_nni(units: int, sparse_ratio: float) -> int:
    """Return how many units NNI 3.0 masks: `_ratio_mask` of its `pruning/tools/sparse_gen.py`."""
    return int(units * sparse_ratio)


def _tied(candidate: Candidate) -> list[Tied]:
    """Return the layers that lose units; raises `ExportError` for what NNI cannot express."""
    return tied_layers(candidate, "NNI", _INSTEAD, _is_known)


def _is_known(layer: nn.Module) -> bool:
    # NNI goes by the names of classes, so a subclass is another layer to it.
    return type(layer).__name__ in _KNOWN and getattr(layer, "groups", 1) == 1


def _entry(tied: Tied) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "op_names": list(tied.layers),
        "sparse_ratio": ratio_for(tied.units, tied.removed, removed_by_nni),
        "granularity": "out_channel",
    }
    return entry | ({"dependency_group_id": tied.group} if len(tied.layers) > 1 else {})


def _read(path: Path) -> list[Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config_list"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path.name} is no config list of NNI: {error}") from error
    if not isinstance(config, list):
        raise ExportError(f"{path.name} is no config list of NNI, but a {type(config).__name__}")
    return config


def _checked(entry: Any, path: Path) -> tuple[list[str], float]:
    """Return the layers and the ratio of an entry; NNI's schema takes floats, and no integers."""
    names, ratio = (entry.get(key) for key in ("op_names", "sparse_ratio"))
    known = {"op_names", "sparse_ratio", "granularity", "dependency_group_id"}
    is_named = isinstance(names, list) and all(isinstance(each, str) for each in names)
    is_share = isinstance(ratio, float) and 0.0 < ratio < 1.0
    if not (is_named and is_share and known >= set(entry)):
        raise ExportError(f"{path.name}: NNI takes no such entry: {entry!r}")
    return names, ratio


def _check_widths(network: nn.Module, left: dict[str, int], path: Path) -> None:
    """Raise `ExportError` where the network's layers have other widths."""
    for name, width in left.items():
        found = len(network.get_parameter(f"{name}.weight"))
        if found != width:
            raise ExportError(
                f"{path.name}: NNI would leave {width} channels of {name!r}, which has {found}"
            )
