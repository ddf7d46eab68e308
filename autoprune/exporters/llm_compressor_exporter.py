"""LLM Compressor: a recipe of bits; checked by reading it as compressed-tensors does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoprune.contracts.exporter import Candidate, Cut, PolicyExporter, cut_of
from autoprune.errors import ExportError
from autoprune.exporters._channels import refuse
from autoprune.policy import WHOLE_NUMBERS, LayerDecision
from autoprune.seal import check_seal

if TYPE_CHECKING:
    from torch import nn

_TOOL = "LLM Compressor"
_INSTEAD = "Use --to onnx_int8 for the network itself"
_WEIGHTS = {"type": "int", "symmetric": True, "strategy": "channel"}
_INPUTS = {"type": "int", "symmetric": False, "strategy": "tensor", "dynamic": False}


class LlmCompressor(PolicyExporter):
    """YAML recipe for `llmcompressor.oneshot(model, recipe=…, dataset=…)`: bits of linear layers.

    Kernels are symmetric with a step per output channel, inputs asymmetric with one step, as
    here; ranges are taken anew from its data. It quantises linear layers alone, and its
    format knows no other widths than the model's own. Where it comes from is the first comment.
    """

    suffix: ClassVar[str] = ".yaml"

    def write(self, source: Candidate, path: Path) -> None:
        """Write the recipe.

        Raises `ExportError` for units and blocks that leave, ranks, layers that are not
        linear, half precision, and policies without bits.
        """
        import yaml

        groups: dict[str, dict[str, Any]] = {}
        for name, layer in _decisions(source).items():
            reads = layer.activation_bits < 32
            key = f"w{layer.weight_bits}" + (f"a{layer.activation_bits}" if reads else "")
            inputs = {"input_activations": {"num_bits": layer.activation_bits, **_INPUTS}}
            scheme = {"weights": {"num_bits": layer.weight_bits, **_WEIGHTS}}
            group = groups.setdefault(key, {"targets": [], **scheme, **(inputs if reads else {})})
            group["targets"].append(name)
        modifier = {"QuantizationModifier": {"config_groups": groups}}
        recipe = yaml.safe_dump({"quant_stage": {"quant_modifiers": modifier}}, sort_keys=False)
        stamp = self.stamped(source.provenance)
        path.write_text(f"# autoprune: {stamp}\n{recipe}", encoding="utf-8", newline="\n")

    def check(self, source: Candidate, path: Path) -> float:
        """Find the scheme of every module, by its name or its type, and compare it."""
        import yaml

        check_seal(path)
        try:
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
            modifier = body["quant_stage"]["quant_modifiers"]["QuantizationModifier"]
            groups = list(modifier["config_groups"].values())
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ExportError(f"{path.name} is no recipe of {_TOOL}: {error}") from error
        decisions = _decisions(source)
        for name, module in cut_of(source).dense.named_modules():
            found = [x for x in groups if {name, type(module).__name__} & set(x["targets"])]
            wanted = [_scheme(decisions[name])] if name in decisions else []
            if [{**each, "targets": []} for each in found] != wanted:
                raise ExportError(f"{path.name} gives {name!r} {found}, which is not the policy")
        return 0.0


def _scheme(layer: LayerDecision) -> dict[str, Any]:
    """Return what a recipe must say of a layer, without its targets."""
    scheme: dict[str, Any] = {"targets": [], "weights": {"num_bits": layer.weight_bits, **_WEIGHTS}}
    if layer.activation_bits < 32:
        scheme["input_activations"] = {"num_bits": layer.activation_bits, **_INPUTS}
    return scheme


def _decisions(source: Candidate) -> dict[str, LayerDecision]:
    """Return the bits by layer; raises `ExportError` for what a recipe cannot express."""
    cut = cut_of(source)
    policy = cut.policy
    objections = [f"group {name!r} loses units" for name in policy.decisions]
    objections += [f"block {name!r} is left out" for name in sorted(policy.dropped)]
    for name, layer in policy.layers.items():
        if (why := _objection(cut, name, layer)) is not None:
            objections.append(f"layer {name!r}: {why}")
    if objections:
        refuse(_TOOL, objections, _INSTEAD)
    if not policy.layers:
        raise ExportError(f"this policy gives no layer bits, so there is nothing for {_TOOL} to do")
    return dict(policy.layers)


def _objection(cut: Cut, name: str, layer: LayerDecision) -> str | None:
    module: nn.Module = cut.dense.get_submodule(name)
    if layer.rank is not None:
        return f"it has rank {layer.rank}"
    if layer.is_sparse:
        return f"it keeps some of its weights ({layer.kept})"
    # A subclass may not be called where its kernel is used, as the one within attention.
    if type(module).__name__ != "Linear":
        return f"of type {type(module).__name__}, and only Linear is quantised"
    if layer.weight_bits > WHOLE_NUMBERS or WHOLE_NUMBERS < layer.activation_bits < 32:
        return "half precision is no whole number"
    return None
