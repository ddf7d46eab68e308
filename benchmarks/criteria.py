"""Criteria beside each other, without training: ResNet-20 on CIFAR-10, and a small transformer.

    python -m benchmarks.criteria                    # everything, some 40 minutes on one core
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
from collections.abc import Iterable, Iterator
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
from autoprune.scoring.evidence import Evidence, Samples
from autoprune.scoring.table import score_groups
from autoprune.tracing.discovery import discover
from autoprune.validation import validated

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
SHARES = (0.7, 0.5)
KEPT = 0.1
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
            print(json.dumps({"part": name, **line}), flush=True)


def structured() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion: error at every share, seconds to score, and its ranks."""
    rows = []
    for name in fitting():
        seconds, errors = [], {share: ([], []) for share in SHARES}  # type: ignore[var-annotated]
        for seed in SEEDS:
            begun = time.perf_counter()
            found = preflight(resnet20(seed, criterion=name))
            seconds.append(time.perf_counter() - begun)
            evaluator = evaluator_of(found)
            for share, (on_v, on_t) in errors.items():
                policy = replace(of_share(found, share), recipe=Recipe(name))
                on_v.append(error(evaluator, policy, "search"))
                on_t.append(error(evaluator, policy, "report"))
        row: dict[str, Any] = {"criterion": name}
        for share, (on_v, on_t) in errors.items():
            row |= {f"V_{share}": told(on_v), f"T_{share}": told(on_t)}
        rows.append(row)
    yield from ranked(rows, f"V_{SHARES[-1]}")


def weights() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion of single weights: error with and without the solve."""
    rows = []
    for name in fitting(single=True):
        errors: dict[str, list[float]] = {"V_bn": [], "T_bn": [], "V_ridge": [], "T_ridge": []}
        for seed in SEEDS:
            found = preflight(resnet20(seed, criterion=name, single=True))
            evaluator = evaluator_of(found)
            for repair, label in (("bn", "bn"), ("both", "ridge")):
                policy = sparse(found, Recipe(name, repair=repair))  # type: ignore[arg-type]
                errors[f"V_{label}"].append(error(evaluator, policy, "search"))
                errors[f"T_{label}"].append(error(evaluator, policy, "report"))
        rows.append({"criterion": name, **{key: told(each) for key, each in errors.items()}})
    yield from ranked(rows, "V_bn")


def transformer() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion of single weights on a transformer, no batch norms in it."""
    trained_transformer()
    rows = []
    for name in fitting(single=True):
        errors: dict[str, list[float]] = {"T": [], "T_ridge": []}
        for seed in SEEDS:
            found = preflight(of_digits(seed, name))
            evaluator = evaluator_of(found)
            for repair, label in (("none", "T"), ("ridge", "T_ridge")):
                policy = sparse(found, Recipe(name, repair=repair), 0.3)  # type: ignore[arg-type]
                errors[label].append(error(evaluator, policy, "report"))
        rows.append({"criterion": name, **{key: told(each) for key, each in errors.items()}})
    yield from ranked(rows, "T")


def speed() -> Iterator[dict[str, Any]]:
    """Yield a line per criterion: seconds for all groups of ResNet-50, beside bare passes."""
    from torchvision.models import resnet50

    model = resnet50().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 3, 64, 64, generator=generator)
    labels = torch.arange(64) % 1000
    groups = discover(model, inputs[:2]).groups
    bare = {"forward": _seconds(lambda: forward(model, inputs))}
    bare["forward and backward"] = _seconds(lambda: backward(model, inputs, labels))
    for what, taken in bare.items():
        yield {"bare": what, "seconds": round(taken, 2)}
    for name in fitting():
        criterion = plugins.create("criterion", PluginSpec(name=name), seed=0)
        samples = Samples(inputs, labels)
        taken = _seconds(lambda: score_groups(criterion, Evidence(model, groups, samples)))  # noqa: B023
        line = {"criterion": name, "cost": criterion.cost, "seconds": round(taken, 2)}
        if criterion.cost == "gradients":
            line["over_passes"] = round(taken / bare["forward and backward"], 2)
        yield line


def fitting(*, single: bool = False) -> list[str]:
    """Return the built-in criteria, with `single` those of single weights."""
    names = plugins.names("criterion")
    kind = {name: plugins.load("criterion", name) for name in names}
    return [name for name in names if not single or issubclass(kind[name], WeightCriterion)]


def resnet20(seed: int, criterion: str, *, single: bool = False) -> Any:
    """Return the job of CIFAR-10 and its ResNet-20."""
    data = ROOT.parent / "shared" / "data"
    space: dict[str, Any] = {"name": "layerwise", "criterion": criterion}
    if single:
        space = {"name": "mixed", "bits": [32], "weights": [KEPT, 1.0], "criterion": criterion}
    splits = {"source": "test", "search": 5000, "report": 5000, "seed": 0}
    path = os.environ.get("AUTOPRUNE_CIFAR10", str(data / "cifar10.npz"))
    checkpoint = os.environ.get("AUTOPRUNE_RESNET20", str(data / "resnet20-12fca82f.th"))
    return validated(
        {
            "model": {"name": "cifar_resnet20", "checkpoint": checkpoint},
            "data": {"name": "cifar10", "path": path, "splits": splits},
            "objectives": ["error"],
            "space": space,
            "seed": seed,
        }
    )


def of_digits(seed: int, criterion: str) -> Any:
    """Return the job of the transformer."""
    space = {"name": "mixed", "bits": [32], "weights": [KEPT, 1.0], "criterion": criterion}
    return validated(
        {
            "model": {"import": f"{__name__}:small_transformer", "checkpoint": str(CHECKPOINT)},
            "data": {"name": "digits"},
            "objectives": ["error"],
            "space": space,
            "seed": seed,
        }
    )


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


def sparse(found: Preflight, recipe: Recipe, share: float = KEPT) -> Policy:
    """Return the policy that keeps the same share of the weights of every kernel."""
    groups = found.preparation.graph.groups
    layers = {x.name: LayerDecision(keep_ratio=share) for x in groups.layers if x.reason is None}
    return groups.canonical(Policy(layers=layers, recipe=recipe))


def error(evaluator: NetworkEvaluator, policy: Policy, split: Any) -> float:
    """Return the error of a policy's network on V or T."""
    return evaluator.evaluate(WorkItem(0, policy, split=split)).value("error")


def told(values: Iterable[float]) -> str:
    """Return mean and standard deviation in percent."""
    numbers = [100 * each for each in values]
    return f"{statistics.mean(numbers):.2f} ± {statistics.stdev(numbers):.2f}"


def ranked(rows: list[dict[str, Any]], key: str) -> Iterator[dict[str, Any]]:
    """Yield rows, the best first, with their ranks."""
    for rank, row in enumerate(sorted(rows, key=lambda each: float(each[key].split()[0])), 1):
        yield {"rank": rank, **row}


def small_transformer() -> nn.Module:
    """Return a vision transformer for digits: 16 patches, 4 layers, 64 features."""
    return Transformer()


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


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
