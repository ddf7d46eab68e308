"""The script that `TorchPruning` writes: how it looks, and what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoprune.exporters._channels import Tied

_HEAD = '''"""Prunes a network with Torch-Pruning to the widths that autoprune has found.

    model = prune(model, example_inputs)    # the dense network, in place

Or `python THIS_FILE package.module:build 1,3,32,32`, where build() returns the dense network
and the numbers are the shape of an input. Torch-Pruning chooses the units, by the L1 norms of
their kernels; how many stay is what was searched. Train or recalibrate afterwards.
Needs torch and torch-pruning 1.6.1, nothing else. What wrote it stands in AUTOPRUNE.
"""

import importlib
import sys

import torch
import torch_pruning as tp

'''

_BODY = '''

def prune(model, example_inputs):
    """Remove units of `model` in place, and return it in the mode in which it was."""
    modes = {name: module.training for name, module in model.named_modules()}
    frozen = [name for name, each in model.named_parameters() if not each.requires_grad]
    model.requires_grad_(True)  # Torch-Pruning reads the network off the graph of autograd
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.0,
        pruning_ratio_dict={
            model.get_submodule(name): ratio for name, ratio in PRUNING_RATIOS.items()
        },
    )
    pruner.step()
    for name, kept in KEPT.items():
        found = len(model.get_submodule(name).weight)
        if found != kept:
            raise RuntimeError(f"{name!r} has {found} units instead of {kept}")
    for name, module in model.named_modules():
        module.training = modes[name]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


def main():
    """Build the network that the command line names, prune it, and show what is left."""
    module, _, builder = sys.argv[1].partition(":")
    model = getattr(importlib.import_module(module), builder)()
    prune(model, torch.zeros([int(size) for size in sys.argv[2].split(",")]))
    print(model)


if __name__ == "__main__":
    main()
'''


def script(tied: Sequence[Tied], ratios: Mapping[str, float], stamp: str) -> str:
    """Return the text of a script that prunes the first layer of each tie at its ratio.

    The ratios go by the names of groups; `stamp` comes last, since it is long.
    """
    shares = (
        f"    {each.layers[0]!r}: {ratios[each.group]!r},  # {each.kept} of {each.units} stay"
        + (f", also in {', '.join(map(repr, each.layers[1:]))}" if len(each.layers) > 1 else "")
        for each in tied
    )
    kept = (
        f"    {layer!r}: {each.kept},  # of {each.units}" for each in tied for layer in each.layers
    )
    table = "\n".join(["PRUNING_RATIOS = {", *shares, "}", "KEPT = {", *kept, "}", ""])
    return f"{_HEAD}{table}{_BODY}\n\nAUTOPRUNE = {stamp!a}\n"
