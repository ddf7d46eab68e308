"""Poisoned trials take workers down, and nothing else: a real search on Ray, with an end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoprune.contracts.executor import EvaluatorSpec
from autoprune.contracts.searcher import Searcher
from autoprune.controller.loop import MAX_ATTEMPTS, SearchLoop
from autoprune.policy import Policy
from autoprune.store.sql import SqlStore
from autoprune.testing.evaluators import POISONS, SCRIPTED
from autoprune.trial import FailureKind, Trial, TrialState
from cluster.executor import RayExecutor
from cluster.placement import Resources
from tests.searching import small_job, small_state

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("one_ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
# Enough for a worker, and soon too little for one that hoards.
RESOURCES = Resources(fewest=2, most=2, memory_bytes=2**30, trial_timeout_s=10.0)
ENDS = {
    "segfault": (FailureKind.CRASH, MAX_ATTEMPTS),
    "exit": (FailureKind.CRASH, MAX_ATTEMPTS),
    "hoard": (FailureKind.OOM_HOST, MAX_ATTEMPTS),
    "loop": (FailureKind.TIMEOUT, 1),
    "nan": (FailureKind.NONFINITE, 1),
    "huge": (FailureKind.INVALID, 1),
}


class Poisoner(Searcher):
    """Proposes `scripts` for `ScriptedEvaluator`, one after the other."""

    def __init__(self, problem: Any, *, seed: int = 0, scripts: Sequence[str] = ()) -> None:
        super().__init__(problem, seed=seed)
        self.left = list(scripts)

    def ask(self, count: int) -> Sequence[Policy]:
        chosen, self.left = self.left[:count], self.left[count:]
        return [
            Policy.from_keep_ratios({"conv1": (len(self.left) + 1) / 16}, each) for each in chosen
        ]

    def tell(self, trial: Trial) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {"left": list(self.left)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.left = list(state["left"])


def test_poisoned_trials_end_with_their_kind_and_the_others_are_untouched(tmp_path: Path) -> None:
    daemon = f"daemon:{tmp_path / 'pid'}"
    assert {*ENDS, "daemon"} == set(POISONS)
    scripts = ["ok", *ENDS, daemon, "ok"]
    job = small_job(
        objectives=["error"],
        searchers=[{"name": "tests.ray.test_poison:Poisoner", "scripts": scripts}],
        budget={"trials": len(scripts)},
        resources={"workers": 2},
    )
    with SqlStore(tmp_path / "store.sqlite") as store:
        store.create_job(job.name, {})
        state = small_state(job, store)
        loop = SearchLoop(state, store, lambda: RayExecutor(EvaluatorSpec(SCRIPTED), RESOURCES))
        assert loop.run() == "finished"
    trials = {x.policy.recipe.criterion: x for x in state.history.trials.values()}
    failed = {
        script: (trial.failure.kind, trial.attempts)
        for script, trial in trials.items()
        if trial.state is TrialState.FAILED and trial.failure
    }
    assert failed == ENDS
    assert "100,000," in str(trials["huge"].failure)
    others = [x for x in state.history.trials.values() if x.policy.recipe.criterion not in ENDS]
    assert len(others) == 1 + 3 + 3  # the dense network, baselines, and what is no poison
    assert all((x.state, x.attempts) == (TrialState.COMPLETED, 1) for x in others)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
