"""What handing a network over costs: a ResNet-50 without half of its channels, in every format.

    python -m benchmarks.export [--format onnx] …

Prints a Markdown table. An export writes the file, reads it back with the target's own runtime
and compares outputs on 16 images of 224 x 224; verifying checks the file's digest, opens it anew
and runs the same images. One thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from autoprune import plugins
from autoprune.contracts.exporter import Candidate, Cut, Exporter, NetworkExporter, PolicyExporter
from autoprune.errors import ExportError
from autoprune.job.spec import ModelSpec, PluginSpec
from autoprune.models.catalog import build_model
from autoprune.policy import LayerDecision, Policy
from autoprune.quantization.quantise import quantise
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.surgery.folding import fold
from autoprune.tracing.discovery import discover

_IMAGES, _SIDE = 16, 224


def candidates() -> tuple[Candidate, Candidate]:
    """Return the network, and the same one with 8 bits everywhere."""
    spec = ModelSpec(name="torchvision/resnet50")
    model = build_model(spec, 1000, (3, _SIDE, _SIDE)).requires_grad_(False)
    example = torch.randn(_IMAGES, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    graph = discover(model, example[:2])
    ratios = {each.name: 0.5 for each in graph.groups.prunable}
    policy = graph.groups.canonical(Policy.from_keep_ratios(ratios))
    plan = plan_by("l1", Evidence(model, graph.groups))
    network = plan.carve(policy).eval()
    facts = {
        "job": "benchmark",
        "trial": 1,
        "model": spec.model_dump(mode="json", by_alias=True),
        "policy": policy.to_json(),
        "groups": graph.groups.to_json(),
        "kept": graph.groups.placed(plan.kept_units(policy)),
        "foldable": [list(pair) for pair in graph.foldable],
        "num_classes": 1000,
        "input_shape": [3, _SIDE, _SIDE],
    }
    cut = Cut(model, graph.groups, policy, plan.kept_entries(policy))
    plain = Candidate(network, example, facts, example, cut)
    folded = fold(network, graph.foldable).eval()
    decisions = {layer.name: LayerDecision(8, 8) for layer in graph.groups.layers}
    quantise(
        folded,
        decisions,
        [example],
        observer="min_max",
        weight_observer="min_max",
        rounding="nearest",
    )
    return plain, Candidate(folded, example, facts, example)


def row(name: str, exporter: Exporter[Candidate], candidate: Candidate) -> str:
    """Export and verify in one format; return the row of the table."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"network{exporter.suffix}"
        begun = time.perf_counter()
        try:
            exported = exporter.export(candidate, path)
        except ExportError as error:
            return f"| {name} | refused: {str(error)[:150]} | | | |"
        written = time.perf_counter()
        if isinstance(exporter, NetworkExporter):
            exporter.provenance_of(path)
            exporter.opened(path)(candidate.example)
        else:
            exporter.check(candidate, path)
        verified = time.perf_counter() - written
    size, unit = exported.size_bytes / 1e6, f" {exported.unit}" if exported.unit else ""
    return (
        f"| {name} | {written - begun:.1f} s | {verified:.1f} s | {size:.1f} MB "
        f"| {exported.max_error:.1e}{unit} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", action="append", help="only this one, or these")
    wanted = parser.parse_args(arguments).format
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    plain, quantised = candidates()
    print("| format | export | verify | size | outputs differ by |\n|---|---|---|---|---|")
    for name in wanted or plugins.names("exporter"):
        exporter = plugins.create("exporter", PluginSpec(name=name))
        if isinstance(exporter, NetworkExporter | PolicyExporter):
            candidate = quantised if name == "onnx_int8" else plain
            print(row(name, exporter, candidate), flush=True)


if __name__ == "__main__":
    main()
