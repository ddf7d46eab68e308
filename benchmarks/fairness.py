"""The worst class as an objective: what it wins on T at equal macs, and what it costs.

    python -m benchmarks.fairness [--trials 100] [--seeds 3] [--images 5000]

Protocol P7: a pretrained CIFAR-10 ResNet, inner channels, L1, batch norms taken anew, no
training. Trials are judged on `--images` of the 5,000 images of V; T has 5,000 as well. Three
searches with equal budgets: for error and macs, for error, macs and the error of the worst
class, and for that and macs alone. Of each, the network of at most a given share of macs is
picked on V: by error from the first, by its worst class from the others. All are judged on T.
As a check, the first search's networks are also picked by their worst class, which its
searchers knew nothing of.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import autoprune
from autoprune.run import Run
from autoprune.trial import Trial
from benchmarks.recorded import CHECKPOINTS, DATA

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)
WORST = "worst_group_error"
SEARCHES = {"plain": ["error", "macs"], "both": ["error", "macs", WORST], "worst": [WORST, "macs"]}
PICKED_BY = {"plain": "error", "both": WORST, "worst": WORST}


def job(options: Any, objectives: list[str], seed: int) -> dict[str, Any]:
    """Return a search; soft bounds that always hold have both errors measured in all."""
    network = options.network
    checkpoint = os.environ.get(f"AUTOPRUNE_{network.upper()}", str(DATA / CHECKPOINTS[network]))
    return {
        "name": f"fairness-{seed}",
        "model": {"name": f"cifar_{network}", "checkpoint": checkpoint},
        "data": {
            "name": "cifar10",
            "path": os.environ.get("AUTOPRUNE_CIFAR10", str(DATA / "cifar10.npz")),
            "splits": {"search": 5000, "report": 5000},
            "groups": ["class"],
        },
        "space": {"name": "layerwise", "include": ["layer*.conv1"]},
        "objectives": objectives,
        "constraints": [{"soft": f"{WORST} <= 1.0"}, {"soft": "error <= 1.0"}],
        "rungs": [{"repair": "bn", "repair_images": 500, "images": options.images}],
        "baselines": {"searchers": []},
        "budget": {"trials": options.trials},
        "seed": seed,
    }


def picked(run: Run, share: float, metric: str) -> Trial | None:
    """Return the front's network of at most `share` of dense macs that is best on V."""
    dense = run.graph.costs.costs(autoprune.Policy()).macs
    fits = [
        trial
        for trial in run.front().members
        if trial.evaluation is not None
        and trial.report is not None
        and trial.evaluation.value("macs") <= share * dense
    ]
    return min(fits, key=_value(metric), default=None)


def _value(metric: str) -> Callable[[Trial], float]:
    def value(trial: Trial) -> float:
        assert trial.evaluation is not None
        return trial.evaluation.value(metric)

    return value


def compared(options: Any, seed: int, directory: Path) -> Iterator[dict[str, Any]]:
    """Run the searches of a seed; yield a row for every share of macs."""
    runs = {
        name: autoprune.search(job(options, objectives, seed), directory / name)
        for name, objectives in SEARCHES.items()
    }
    for share in SHARES:
        picks = {name: picked(run, share, PICKED_BY[name]) for name, run in runs.items()}
        picks["plain by worst"] = picked(runs["plain"], share, WORST)
        row: dict[str, Any] = {"seed": seed, "share": share}
        for name, trial in picks.items():
            if trial is not None and trial.report is not None:
                row[name] = [trial.report.value(each) for each in (WORST, "error", "macs")]
        yield row


def main() -> None:
    """Print a row per seed and share, then the medians."""
    parser = argparse.ArgumentParser(description="The worst class as an objective, on T.")
    parser.add_argument("--network", default="resnet20", choices=sorted(CHECKPOINTS))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000, help="of V, for every trial")
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            for row in compared(options, seed, Path(directory)):
                print(json.dumps(row), flush=True)
                rows.append(row)
    won = []
    for share in SHARES:
        whole = [row for row in rows if row["share"] == share and SEARCHES.keys() <= row.keys()]
        if whole:
            found = _medians(whole)
            print(json.dumps({"share": share, **found}))
            won += [share] if max(found[f"{x}: points won"] for x in ("both", "worst")) >= 2 else []
    print(f"two points or more won at {won or 'no share'} of the shares {list(SHARES)}")


def _medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return medians over seeds: worst class and error of each, and what is won in points."""
    found = {}
    for name in ("plain", "plain by worst", "both", "worst"):
        for place, metric in enumerate(("worst class", "error")):
            found[f"{name}: {metric}"] = statistics.median(row[name][place] for row in rows)
        won = [100 * (row["plain"][0] - row[name][0]) for row in rows]
        found[f"{name}: points won"] = statistics.median(won)
    return found


if __name__ == "__main__":
    main()
