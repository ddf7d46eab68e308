"""What every searcher costs the controller at 1,000 told trials, and how its state grows.

    python -m benchmarks.searchers [--names surrogate,amc]

30 groups of 16 to 64 channels, two goals, evaluations made by hand. A thousand trials are
told that others proposed; then a hundred are asked for and told, one at a time. Processor
milliseconds of ask and tell together, mean and largest; the snapshot's size then, and after
a thousand trials more.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import torch

from autoprune import plugins
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.contracts.training import TrainingProgress
from autoprune.job.spec import PluginSpec
from autoprune.policy import Policy
from autoprune.store.snapshot import pack
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Trial, TrialState
from search_spaces.layerwise import Layerwise

TOLD = 1000
ASKED = 100


def tell_others(searcher: Searcher, problem: SearchProblem, rng: np.random.Generator) -> None:
    """Tell a searcher a thousand trials that it did not propose."""
    for number in range(TOLD):
        level = rng.random()
        ratios = {
            group.name: float(np.clip(level + 0.3 * rng.normal(), 0.1, 1.0))
            for group in problem.groups.prunable
        }
        nearest = problem.space.nearest(Policy.from_keep_ratios(ratios))
        searcher.tell(_trial(problem, problem.space.decode(nearest), number))


def figures(name: str, problem: SearchProblem) -> dict[str, object]:
    """Return the figures of one searcher."""
    searcher: Searcher = plugins.create("searcher", PluginSpec(name=name), problem, seed=0)
    if searcher.training is not None:
        steps = searcher.training.steps
        searcher.trained(TrainingProgress(steps, steps, "net"))
    rng = np.random.default_rng(0)
    tell_others(searcher, problem, rng)
    laps = []
    for number in range(ASKED):
        start = time.process_time()
        policies = searcher.ask(1)
        asked = time.process_time() - start
        if not policies:
            break
        trial = _trial(problem, policies[0], TOLD + number)
        start = time.process_time()
        searcher.tell(trial)
        laps.append(1e3 * (asked + time.process_time() - start))
    sizes = [len(pack(searcher.state_dict()))]
    tell_others(searcher, problem, rng)
    sizes.append(len(pack(searcher.state_dict())))
    mean, largest = (round(float(each), 1) for each in (np.mean(laps), np.max(laps)))
    return {"searcher": name, "mean_ms": mean, "largest_ms": largest, "state_bytes": sizes}


def _trial(problem: SearchProblem, policy: Policy, number: int) -> Trial:
    canonical = problem.groups.canonical(policy)
    evaluation = measure(problem, canonical)
    return Trial(number, canonical, "x", 0, TrialState.COMPLETED, evaluation=evaluation)


def main() -> None:
    """Print the figures as JSON, one line per searcher."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default="")
    given = parser.parse_args().names
    base = small_problem((16, 32, 64) * 10)
    problem = replace(base, space=Layerwise(base.groups))
    for name in given.split(",") if given else plugins.names("searcher"):
        print(json.dumps(figures(name, problem)), flush=True)


if __name__ == "__main__":
    main()
