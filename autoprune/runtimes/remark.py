"""In words: what of a network's bits and zeros a runtime runs otherwise than was decided."""

from __future__ import annotations

from torch import nn

from autoprune.policy import WHOLE_NUMBERS
from autoprune.quantization.form import decision_of, kernels_of, quantised_layers

_NAMED = 3
# Fewer zeros than this share of a kernel happen by themselves.
_FEW = 0.05
MULTIPLIED = "weights that left are multiplied with as zeros: no time is saved"
"""What becomes of zeros that no kernel skips."""


class Remarks:
    """What is to be said about layers; what is the same for many is said once."""

    def __init__(self) -> None:
        self._layers: dict[str, list[str]] = {}

    def add(self, layer: str, said: str) -> None:
        """Say something about a layer."""
        self._layers.setdefault(said, []).append(layer)

    def sentences(self) -> list[str]:
        """Return what was said, after the names of the layers, the first ones of many."""
        return [f"{_listed(names)}: {said}" for said, names in self._layers.items()]


def all_in_float32(network: nn.Module) -> list[str]:
    """Return what to say where PyTorch runs a network that may be quantised."""
    if not quantised_layers(network):
        return []
    return ["PyTorch runs quantised layers in float32; whole numbers: backend: onnx or openvino"]


def of_eight_bits(network: nn.Module) -> Remarks:
    """Return what is to be said where whole numbers have 8 bits."""
    said = Remarks()
    for name, layer in quantised_layers(network).items():
        decision = decision_of(layer)
        weights, inputs = decision.weight_bits, decision.activation_bits
        if weights <= WHOLE_NUMBERS < inputs:
            said.add(name, f"{weights}-bit kernels are stored in 8 bits and multiplied as floats")
        elif inputs <= WHOLE_NUMBERS < weights:
            said.add(name, f"{inputs}-bit inputs are multiplied as floats")
        elif weights < WHOLE_NUMBERS:
            said.add(name, f"{weights}-bit kernels run as 8-bit whole numbers")
        if inputs < WHOLE_NUMBERS >= weights:
            said.add(name, f"{inputs}-bit inputs run as 8-bit whole numbers")
        if 16 in (weights, inputs):
            said.add(name, "16 bits run as float32 rounded to half precision")
    return said


def all_multiplied(network: nn.Module) -> list[str]:
    """Return what to say of single weights that left where zeros are skipped in no layer."""
    said = Remarks()
    for name in sparse_layers(network):
        said.add(name, MULTIPLIED)
    return said.sentences()


def sparse_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with kernels that single weights have left, by name, in their order."""
    found, quantised = dict[str, nn.Module](), quantised_layers(network)
    for name, layer in network.named_modules():
        if name in quantised:  # rounding makes zeros as well
            is_sparse = decision_of(layer).is_sparse
        else:
            shares = [float((each == 0).float().mean()) for each in kernels_of(layer).values()]
            # What is nothing but zeros was not made so by a policy: one weight always stays.
            is_sparse = any(_FEW < each < 1.0 for each in shares)
        if is_sparse:
            found[name] = layer
    return found


def in_eight_bits(network: nn.Module) -> list[str]:
    """Return the layers whose kernels have all 8 bits and are multiplied as whole numbers."""
    decisions = {name: decision_of(layer) for name, layer in quantised_layers(network).items()}
    return [
        name
        for name, each in decisions.items()
        if each.weight_bits == WHOLE_NUMBERS >= each.activation_bits
    ]


def _listed(names: list[str]) -> str:
    first, rest = names[:_NAMED], names[_NAMED:]
    return ", ".join(first) + (f" and {len(rest)} more" if rest else "")
