"""Ray Tune, killed half-way and restored: how many finished trials it evaluates again.

python -m benchmarks.tune_restore DIRECTORY [--restore]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TRIALS = 60
_SECONDS = 0.6
_NAME = "search"


def tune_figures(
    killed_half_way: Callable[[list[str], Callable[[], bool]], None],
) -> dict[str, Any]:
    """Kill a Ray Tune run of sixty trials half-way, restore it, and compare.

    A trial sleeps as long as one of ResNet-20 takes, two run at a time.
    """
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal"
        command = [sys.executable, "-m", "benchmarks.tune_restore", directory]
        killed_half_way(command, lambda: len(_finished(journal)) >= TRIALS // 2)
        before = _finished(journal)
        subprocess.run([*command, "--restore"], check=True, capture_output=True)
        after = Counter(_finished(journal))
    return {
        "finished_before_the_kill": len(before),
        "trials": len(after),
        "evaluations": sum(after.values()),
        "finished_and_run_again": sum(after[each] > 1 for each in set(before)),
    }


def _finished(journal: Path) -> list[str]:
    return journal.read_text().split() if journal.exists() else []


def _trial(config: Mapping[str, Any]) -> None:
    from ray import tune

    time.sleep(_SECONDS)
    with open(config["journal"], "a") as file:
        file.write(f"{tune.get_context().get_trial_id()}\n")
    tune.report({"error": config["keep_ratio"]})


def main() -> None:
    """Run or restore the search in the directory that is given."""
    import ray
    from ray import tune

    directory = sys.argv[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    if "--restore" in sys.argv:
        tuner = tune.Tuner.restore(f"{directory}/{_NAME}", _trial, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            _trial,
            param_space={
                "keep_ratio": tune.uniform(0.1, 1.0),
                "journal": f"{directory}/journal",
            },
            tune_config=tune.TuneConfig(num_samples=TRIALS),
            run_config=tune.RunConfig(name=_NAME, storage_path=directory, verbose=0),
        )
    tuner.fit()


if __name__ == "__main__":
    main()
