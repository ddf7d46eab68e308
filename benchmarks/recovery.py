"""Fine-tuning throughput beside a bare PyTorch loop, and what a teacher costs on top.

    python -m benchmarks.recovery [--steps 6] [--laps 7]

ResNet-20 on random images of CIFAR-10's size, batches of 128, one thread; speed depends on
neither. The bare loops train the same network, with momentum, weight decay and clipping as
well: one with the same augmentation, one without. All run in turn, `laps` times, in float32
and in mixed precision; printed are medians of images per second, and medians of the ratios
within a lap. Seconds are those of the processor, so that what else runs here matters less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autoprune.contracts.executor import WorkItem
from autoprune.data.augmentation import augmented
from autoprune.data.dataset import Dataset, Part
from autoprune.evaluation.material import packed
from autoprune.evaluation.preparation import Preparation
from autoprune.evaluation.recovery import Recoveries
from autoprune.evaluation.workbench import Workbench, fingerprint
from autoprune.job.spec import Job, ModelSpec
from autoprune.models.catalog import build_model
from autoprune.policy import Policy
from autoprune.surgery.examination import examine

BATCH, IMAGES, RATE = 128, 4096, 0.01
TEACHING: Mapping[str, Any] = {"plain": None, "live": {}, "cached": {"cached": True}}


def workbench(steps: int) -> Workbench:
    """Return a bench whose rungs are `TEACHING`, in float32 and then in mixed precision."""
    pixels = np.random.default_rng(0).integers(256, size=(IMAGES, 32, 32, 3), dtype=np.uint8)
    part = Part(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.arange(IMAGES) % 10)
    dataset = Dataset(part, part, part, 10, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    model = build_model(ModelSpec(name="cifar_resnet20"), 10, (3, 32, 32))
    graph = examine(model, dataset.normalise(part.inputs[:2])).graph
    rungs = [
        {
            "finetune_steps": steps,
            "batch_size": BATCH,
            "learning_rate": RATE,
            "distill": distill,
            "recovery": {"name": "finetune", "mixed_precision": mixed},
        }
        for mixed in (False, True)
        for distill in TEACHING.values()
    ]
    job = Job.model_validate(
        {
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10"},
            "rungs": rungs,
            "resources": {"device": "cpu"},
        }
    )
    scores = {"l1": {group.name: np.ones(group.units) for group in graph.groups.prunable}}
    preparation = Preparation(graph, torch.float32, 10, fingerprint(model), scores)
    return Workbench(job.to_json(), preparation, packed(dataset, model))


def bare_loop(bench: Workbench, steps: int, *, mixed: bool, augments: bool) -> None:
    """Fine-tune as a plain PyTorch loop does."""
    network = bench.plan.carve(Policy()).requires_grad_(True).train()
    part, generator = bench.dataset.train, torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(
        network.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.randperm(len(part), generator=generator)
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        inputs = bench.dataset.normalise(part.inputs[rows])
        if augments:
            inputs, _ = augmented(inputs, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = cross_entropy(network(inputs), part.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def contestants(bench: Workbench, steps: int, *, mixed: bool) -> dict[str, Callable[[], None]]:
    """Return what is timed, by name."""
    recoveries = Recoveries(bench, None)

    def recovering(rung: int) -> Callable[[], None]:
        return lambda: recoveries.recover(bench.plan.carve(Policy()), WorkItem(0, Policy(), rung))

    first = len(TEACHING) if mixed else 0
    ours = {name: recovering(first + place) for place, name in enumerate(TEACHING)}
    return {
        "bare": lambda: bare_loop(bench, steps, mixed=mixed, augments=True),
        "bare_unaugmented": lambda: bare_loop(bench, steps, mixed=mixed, augments=False),
        **ours,
    }


def main() -> None:
    """Print one JSON line for each number format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--laps", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = workbench(given.steps)
    for mixed in (False, True):
        timed = contestants(bench, given.steps, mixed=mixed)
        laps: list[dict[str, float]] = []
        for _ in range(given.laps + 1):
            seconds = {}
            for name, run in timed.items():
                start = time.process_time()
                run()
                seconds[name] = time.process_time() - start
            laps.append(seconds)
        laps = laps[1:]  # the first one warms up, and gathers the teacher's logits
        images = given.steps * BATCH
        speed = {name: round(images / statistics.median(x[name] for x in laps)) for name in timed}

        def ratio(one: str, other: str, laps: list[dict[str, float]] = laps) -> float:
            return round(statistics.median(x[one] / x[other] for x in laps), 3)

        figures = {
            "format": "mixed" if mixed else "float32",
            "images_per_s": speed,
            "share_of_bare": ratio("bare", "plain"),
            "share_of_bare_unaugmented": ratio("bare_unaugmented", "plain"),
            "live_on_top": round(ratio("live", "plain") - 1, 3),
            "cached_on_top": round(ratio("cached", "plain") - 1, 3),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
