"""Criteria beside each other, without training: ResNet-20 on CIFAR-10, and a small transformer.

    python -m benchmarks.criteria                    # everything, about an hour on one core
    python -m benchmarks.criteria structured         # units: 50 % and 70 % of the macs, V and T
    python -m benchmarks.criteria weights            # single weights: a tenth stays
    python -m benchmarks.criteria transformer        # the same on a vision transformer of digits
    python -m benchmarks.criteria speed              # seconds to score ResNet-50

V are 5,000 test images, T the other 5,000. Every group keeps the same share, every kernel a
tenth of its weights; batch norms are recalibrated on 1,000 training images (`bn`), and where it
is said so what stays is solved anew (`ridge`). Three seeds draw the images that criteria see.
Each line is JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autoprune import plugins
from autoprune.contracts.criterion import WeightCriterion
from autoprune.contracts.executor import WorkItem
from autoprune.data.digits import Digits
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.job.spec import PluginSpec
from autoprune.policy import LayerDecision, Policy, Recipe
from autoprune.preflight import Preflight, preflight
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.scoring.table import score_groups
from autoprune.tracing.discovery import discover
from autoprune.validation import validated
from autoprune.vision import ensure_torchvision

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
SHARES = (0.7, 0.5)
KEPT = 0.1
# The passes that criteria by gradients need.
FIRST = "forward and backward"
SECOND = "forward, backward and the product with the Hessian"
CHECKPOINT = ROOT / "runs" / "criteria-transformer.pt"


def main() -> None:
    """Run the parts named on the command line, or all."""
    torch.set_num_threads(1)
    parts = {
        "structured": structured,
        "weights": weights,
        "transformer": transformer,
        "speed": speed,
    }
    for name in sys.argv[1:] or list(parts):
        for line in parts[name]():
            print(json.dumps({"part": name, **line}, ensure_ascii=False), flush=True)


def structured() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion: error on V and T at every share of the macs."""
    errors: dict[str, dict[str, list[float]]] = {name: {} for name in fitting()}
    for seed in SEEDS:
        found = preflight(resnet20(seed, tuple(errors)))
        evaluator = evaluator_of(found)
        for name, row in errors.items():
            for share in SHARES:
                policy = replace(of_share(found, share), recipe=Recipe(name))
                judge(evaluator, policy, f"{share:.0%}", row)
    yield from ranked(errors, f"V {SHARES[-1]:.0%}")


def weights() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion of single weights: error with and without the solve."""
    yield from of_weights(resnet20, {"bn": "bn", "both": "solved"}, KEPT, ends=0)


def transformer() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion of single weights on a transformer, no batch norms in it."""
    trained_transformer()
    yield from of_weights(of_digits, {"none": "cut", "ridge": "solved"}, 3 * KEPT, ends=1)


def of_weights(
    job: Any, repairs: dict[str, str], share: float, ends: int
) -> Iterator[dict[str, Any]]:
    """Yield a line per criterion, for so many weights of every kernel and several repairs."""
    errors: dict[str, dict[str, list[float]]] = {name: {} for name in fitting(single=True)}
    for seed in SEEDS:
        found = preflight(job(seed, tuple(errors), single=True))
        evaluator = evaluator_of(found)
        for name, row in errors.items():
            for repair, label in repairs.items():
                recipe = Recipe(name, repair=repair)  # type: ignore[arg-type]
                judge(evaluator, sparse(found, recipe, share, ends), label, row)
    yield from ranked(errors, f"V {next(iter(repairs.values()))}")


def speed() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion: seconds for all groups of ResNet-50, beside bare passes."""
    ensure_torchvision()
    from torchvision.models import resnet50

    model = resnet50().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 3, 64, 64, generator=generator)
    labels = torch.arange(64) % 1000
    groups = discover(model, inputs[:2]).groups
    bare = {"forward": _seconds(lambda: forward(model, inputs))}
    bare[FIRST] = _seconds(lambda: backward(model, inputs, labels))
    bare[SECOND] = _seconds(lambda: backward_twice(model, inputs, labels))
    for what, taken in bare.items():
        yield {"bare": what, "seconds": round(taken, 2)}
    for name in fitting():
        criterion = plugins.create("criterion", PluginSpec(name=name), seed=0)
        samples = Samples(inputs, labels)
        taken = _seconds(lambda: score_groups(criterion, Evidence(model, groups, samples)))  # noqa: B023
        line = {"criterion": name, "cost": criterion.cost, "seconds": round(taken, 2)}
        if criterion.cost == "gradients":
            line["over_passes"] = round(taken / bare[SECOND if name == "grasp" else FIRST], 2)
        yield line


def fitting(*, single: bool = False) -> list[str]:
    """Return the built-in criteria, with `single` those of single weights."""
    names = plugins.names("criterion")
    kind = {name: plugins.load("criterion", name) for name in names}
    return [name for name in names if not single or issubclass(kind[name], WeightCriterion)]


def resnet20(seed: int, criteria: tuple[str, ...], *, single: bool = False) -> Any:
    """Return the job of CIFAR-10 and its ResNet-20; the seed draws V, T and training images."""
    data = ROOT.parent / "shared" / "data"
    splits = {"source": "test", "search": 5000, "report": 5000, "seed": seed}
    path = os.environ.get("AUTOPRUNE_CIFAR10", str(data / "cifar10.npz"))
    checkpoint = os.environ.get("AUTOPRUNE_RESNET20", str(data / "resnet20-12fca82f.th"))
    model = {"name": "cifar_resnet20", "checkpoint": checkpoint}
    return job_of(model, {"name": "cifar10", "path": path, "splits": splits}, criteria, single)


def of_digits(seed: int, criteria: tuple[str, ...], *, single: bool = False) -> Any:
    """Return the job of the transformer."""
    model = {"import": "benchmarks.criteria:Transformer", "checkpoint": str(CHECKPOINT)}
    return job_of(model, {"name": "digits", "splits": {"seed": seed}}, criteria, single)


def job_of(model: Any, data: Any, criteria: tuple[str, ...], single: bool) -> Any:
    """Return a job whose policies may carry any of the criteria."""
    space: dict[str, Any] = {"name": "mixed", "bits": [32], "criterion": list(criteria)}
    space |= {"weights": [KEPT, 1.0]} if single else {}
    return validated({"model": model, "data": data, "objectives": ["error"], "space": space})


def evaluator_of(found: Preflight) -> NetworkEvaluator:
    """Return the evaluator of a job, in this process."""
    return NetworkEvaluator(job=found.job.to_json(), preparation=found.preparation.to_json())


def of_share(found: Preflight, share: float) -> Policy:
    """Return the policy with one keep_ratio for all groups whose macs are nearest to a share."""
    graph = found.preparation.graph
    names = [group.name for group in graph.groups.prunable]
    candidates = [
        graph.groups.canonical(Policy.from_keep_ratios(dict.fromkeys(names, step / 64)))
        for step in range(1, 65)
    ]
    wanted = share * found.dense.macs
    return min(candidates, key=lambda one: abs(graph.costs.costs(one).macs - wanted))


def sparse(found: Preflight, recipe: Recipe, share: float, ends: int) -> Policy:
    """Return the policy that keeps the same share of the weights of every kernel.

    So many layers at either end keep all of theirs.
    """
    groups = found.preparation.graph.groups
    able = [each.name for each in groups.layers if each.reason is None]
    layers = dict.fromkeys(able[ends : len(able) - ends], LayerDecision(keep_ratio=share))
    return groups.canonical(Policy(layers=layers, recipe=recipe))


def judge(
    evaluator: NetworkEvaluator, policy: Policy, label: str, row: dict[str, list[float]]
) -> None:
    """Add the errors of a policy's network on V and T to a row."""
    for title, split in (("V", "search"), ("T", "report")):
        item = WorkItem(0, policy, split=split)  # type: ignore[arg-type]
        value = evaluator.evaluate(item).value("error")
        row.setdefault(f"{title} {label}", []).append(100 * value)


def ranked(errors: dict[str, dict[str, list[float]]], key: str) -> Iterator[dict[str, Any]]:
    """Yield means and standard deviations in percent, the best first."""
    order = sorted(errors, key=lambda name: statistics.mean(errors[name][key]))
    for rank, name in enumerate(order, 1):
        told = {
            label: f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
            for label, values in errors[name].items()
        }
        yield {"rank": rank, "criterion": name, **told}


class Transformer(nn.Module):
    """Patches of 2×2 pixels as tokens, four encoder layers, the mean of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 2, stride=2)
        self.places = nn.Parameter(torch.zeros(1, 16, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 10) of images (n, 1, 8, 8)."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2) + self.places
        logits: torch.Tensor = self.head(self.encoder(tokens).mean(1))
        return logits


def trained_transformer() -> None:
    """Train the transformer on the training digits, once."""
    if CHECKPOINT.exists():
        return
    from autoprune.data.dataset import Dataset
    from autoprune.job.spec import SplitSpec

    data = Dataset.from_raw(Digits().load(), SplitSpec())
    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    inputs, labels = data.normalise(data.train.inputs), data.train.labels
    for _ in range(60):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    CHECKPOINT.parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), CHECKPOINT)


@torch.no_grad()
def forward(model: nn.Module, inputs: torch.Tensor) -> None:
    """Run all inputs, 64 at a time."""
    for batch in inputs.split(64):
        model(batch)


def backward(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Run all inputs forwards and backwards, with gradients of every parameter."""
    model.requires_grad_(True)
    for batch, own in zip(inputs.split(64), labels.split(64), strict=True):
        torch.autograd.grad(cross_entropy(model(batch), own), list(model.parameters()))
    model.requires_grad_(False)


def backward_twice(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Run all inputs forwards and backwards, then the product of the Hessian with the gradient.

    The gradient is that of all inputs, so they are run once before.
    """
    backward(model, inputs, labels)
    model.requires_grad_(True)
    parameters = list(model.parameters())
    for batch, own in zip(inputs.split(64), labels.split(64), strict=True):
        loss = cross_entropy(model(batch), own)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        along = sum((each * each.detach()).sum() for each in gradients)
        torch.autograd.grad(along, parameters)  # type: ignore[arg-type]
    model.requires_grad_(False)


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
