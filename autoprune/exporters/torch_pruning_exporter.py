"""Torch-Pruning: a script that prunes as the policy does; checked by running it."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.contracts.exporter import Candidate, PolicyExporter, cut_of
from autoprune.errors import ExportError
from autoprune.exporters._channels import ratio_for, refuse, tied_layers
from autoprune.exporters._deadline import limited
from autoprune.exporters._torch_pruning_script import script
from autoprune.seal import check_seal, open_seal

if TYPE_CHECKING:
    from torch import Tensor, nn

_TOOL = "Torch-Pruning"
_INSTEAD = "Use --to torch for the network itself, or --to masks for its zeros"
# On some networks its graph never ends; others take seconds.
_PATIENCE_S = 120.0
_SEAL = re.compile(re.escape(open_seal().rstrip("0")) + "[0-9a-f]{64}")


class TorchPruning(PolicyExporter):
    """Python script that prunes the dense network with Torch-Pruning, which it needs besides torch.

    It chooses units itself, by magnitude; how many stay in each layer is what the policy says.
    """

    suffix: ClassVar[str] = ".py"

    def write(self, source: Candidate, path: Path) -> None:
        """Write the script: `PRUNING_RATIOS` by layer, and `prune(model, example_inputs)`.

        Raises `ExportError` for what Torch-Pruning cannot express: blocks, bits, ranks, and
        units that are not the output channels of convolutions and linear layers.
        """
        path.write_text(self._script(source), encoding="utf-8", newline="\n")

    def check(self, source: Candidate, path: Path) -> float:
        """Prune a copy of the dense network by the script, and compare all shapes.

        Raises `ExportError` without Torch-Pruning, for layers that come out differently, and
        for a script that is not what `write` gives, which is not run.
        """
        check_seal(path)
        text = path.read_text(encoding="utf-8")
        # A seal proves that nothing was damaged, not who sealed it.
        if _SEAL.sub(open_seal(), text) != self._script(source):
            raise ExportError(f"{path.name} is not the script of this policy; it was not run")
        network = _pruned(text, cut_of(source).dense, source.example[:1])
        _check_shapes(network, source.network)
        _check_outputs(network, source)
        return 0.0

    def _script(self, source: Candidate) -> str:
        tied = tied_layers(source, _TOOL, _INSTEAD, _is_known)
        ratios = {x.group: ratio_for(x.units, x.removed, removed_by_torch_pruning) for x in tied}
        return script(tied, ratios, self.stamped(source.provenance))


def removed_by_torch_pruning(units: int, ratio: float) -> int:
    """Return how many units Torch-Pruning 1.6.1 removes: `n_pruned` of its `BasePruner`."""
    return units - int(units * (1 - ratio))


def _is_known(layer: nn.Module) -> bool:
    # Of parameters in a module of one's own it only guesses which dimension goes with what.
    kinds = (each for each in type(layer).__mro__ if each.__name__ != "Module")
    return any(each.__module__.startswith("torch.nn.modules.") for each in kinds)


def _pruned(text: str, dense: nn.Module, example: Tensor) -> nn.Module:
    """Run the script on a copy of the dense network, and return what it gives."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"{error}; install the extra: pip install 'autoprune[torch-pruning]'"
        ) from error
    names: dict[str, Any] = {"__name__": "autoprune_export"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of parameters that it wraps by itself
        try:
            exec(compile(text, "<export>", "exec"), names)
            with limited(_PATIENCE_S):
                network: nn.Module = names["prune"](copy.deepcopy(dense), example)
        except Exception as error:  # whatever it raises on a network that it does not know
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"{_TOOL} cannot prune this network: {said}. {_INSTEAD}") from error
    return network


def _check_shapes(network: nn.Module, wanted: nn.Module) -> None:
    """Raise `ExportError` with the layers whose parameters have other shapes."""
    found = {name: tuple(each.shape) for name, each in network.named_parameters()}
    shapes = {name: tuple(each.shape) for name, each in wanted.named_parameters()}
    objections = [
        f"{name} becomes {found.get(name, 'nothing')} instead of {shapes.get(name, 'nothing')}"
        for name in shapes | found
        if found.get(name) != shapes.get(name)
    ]
    if objections:
        refuse(_TOOL, objections, _INSTEAD)


def _check_outputs(network: nn.Module, source: Candidate) -> None:
    """Raise `ExportError` where the pruned network does not run, or gives other shapes."""
    import torch

    with torch.inference_mode():
        expected = source.network(source.example)
        try:
            outputs = network.eval()(source.example)
        except Exception as error:  # whatever a broken network raises, it is broken
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"what {_TOOL} leaves does not run: {said}. {_INSTEAD}") from error
    if outputs.shape != expected.shape:
        shapes = f"{tuple(outputs.shape)} instead of {tuple(expected.shape)}"
        raise ExportError(f"what {_TOOL} leaves gives outputs {shapes}. {_INSTEAD}")
