"""ResNet-56 at half of its macs without fine-tuning: AMC's single-budget mode and uniform.

    python -m benchmarks.single_budget [--trials 300] [--searchers amc,eagle_eye]

Protocol P2: inner channels, L1, batch norms taken anew on 250 training images, the search
judged on 2,000 images of V. The five best of a search are judged again on all 5,000 images
of V, and the best of them once on T; the uniform network, the largest within the same
budget, likewise. The paper (He et al., ECCV 2018): 90.2 % against 87.5 %.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from autoprune import plugins
from autoprune.contracts.searcher import SearchProblem
from autoprune.job.spec import PluginSpec
from autoprune.policy import Policy
from autoprune.trial import Trial, TrialState
from benchmarks.recorded import ROOT, RecordedNetwork

TARGET = 0.5
FINALISTS = 5
STEPS = 400
# Of 500 images the standard error is 1.6 points: three hundred trials find what suits them.
IMAGES = 2000


def best_of_search(
    name: str, problem: SearchProblem, network: RecordedNetwork, trials: int, seed: int
) -> list[Policy]:
    """Return the policies with the lowest errors of a search, best first."""
    spec = PluginSpec(name=name, options={"target": TARGET})
    searcher = plugins.create("searcher", spec, problem, seed=seed)
    found: dict[Policy, float] = {}
    for number in range(1, trials + 1):
        for policy in map(problem.groups.canonical, searcher.ask(1)):
            evaluation = network.evaluate(policy)
            trial = Trial(number, policy, name, 0, TrialState.COMPLETED, evaluation=evaluation)
            searcher.tell(trial)
            found[policy] = evaluation.value("error")
    return sorted(found, key=lambda policy: found[policy])


def uniform(problem: SearchProblem) -> Policy:
    """Return the largest network within the budget that keeps the same share everywhere."""
    dense = problem.costs.costs(Policy()).macs
    for step in range(STEPS, 0, -1):
        ratios = {group.name: step / STEPS for group in problem.groups.prunable}
        nearest = problem.space.nearest(Policy.from_keep_ratios(ratios))
        policy = problem.groups.canonical(problem.space.decode(nearest))
        if problem.costs.costs(policy).macs <= TARGET * dense:
            return policy
    raise AssertionError("the space holds no uniform network within the budget")


def main() -> None:
    """Print the errors as JSON, one line per method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--searchers", default="amc")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "search_quality")
    given = parser.parse_args()
    table = given.out / "evaluations.sqlite"
    searching = RecordedNetwork("resnet56", table, images=IMAGES)
    judging = RecordedNetwork("resnet56", table, images=5000, reported=5000)
    problem = searching.problem(given.trials)
    dense = problem.costs.costs(Policy()).macs
    finalists = {"dense": [Policy()], "uniform": [uniform(problem)]}
    for name in given.searchers.split(","):
        ranked = best_of_search(name, problem, searching, given.trials, given.seed)
        finalists[name] = ranked[:FINALISTS]
    for name, policies in finalists.items():
        best = min(policies, key=lambda policy: judging.evaluate(policy).value("error"))
        figures = {
            "macs": problem.costs.costs(best).macs / dense,
            "error_searched": searching.evaluate(best).value("error"),
            "error_v": judging.evaluate(best).value("error"),
            "error_t": judging.report(best).value("error"),
        }
        print(json.dumps({"method": name} | {key: round(x, 4) for key, x in figures.items()}))


if __name__ == "__main__":
    main()
