"""Peers in their own loops: Optuna, pymoo, and the sweeps of Torch-Pruning.

Each is `run(problem, seed, budget, evaluate)`, where `evaluate(policy)` returns the losses
(error, share of macs) and stops the run by raising `Spent` after `budget` policies.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import torch
import torch_pruning as tp
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import ElementwiseProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from torch import nn

from autoprune.contracts.searcher import SearchProblem
from autoprune.policy import Policy
from autoprune.space import Integer

Evaluate = Callable[[Policy], tuple[float, float]]
Peer = Callable[[SearchProblem, int, int, Evaluate], None]


class Spent(Exception):
    """The budget is used up."""


def optuna_peer(make: Callable[[int], optuna.samplers.BaseSampler]) -> Peer:
    """Return Optuna's own loop with a sampler, its options as they come."""

    def run(problem: SearchProblem, seed: int, budget: int, evaluate: Evaluate) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            values = {x.name: trial.suggest_int(x.name, x.low, x.high) for x in _ranges(problem)}
            return evaluate(problem.space.decode(values))

        study = optuna.create_study(directions=["minimize"] * 2, sampler=make(seed))
        study.optimize(objective, n_trials=10 * budget)

    return run


def pymoo_nsga2(problem: SearchProblem, seed: int, budget: int, evaluate: Evaluate) -> None:
    """Run pymoo's NSGA-II as its documentation sets it up for whole numbers."""
    ranges = _ranges(problem)

    class Widths(ElementwiseProblem):
        def __init__(self) -> None:
            low, high = ([getattr(x, end) for x in ranges] for end in ("low", "high"))
            super().__init__(n_var=len(ranges), n_obj=2, xl=low, xu=high, vtype=int)

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: Any, **__: Any) -> None:
            values = {each.name: int(value) for each, value in zip(ranges, x, strict=True)}
            out["F"] = evaluate(problem.space.decode(values))

    algorithm = NSGA2(
        pop_size=min(100, budget // 5),
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    minimize(Widths(), algorithm, ("n_gen", 10 * budget), seed=seed, verbose=False)


def torch_pruning_sweep(
    model: nn.Module, importance: Callable[[], Any], *, is_global: bool
) -> Peer:
    """Return a sweep over pruning ratios; the widths are those of Torch-Pruning's pruner."""

    def run(problem: SearchProblem, seed: int, budget: int, evaluate: Evaluate) -> None:
        names = [each.name for each in problem.groups.prunable]
        for ratio in np.linspace(0.0, 0.9, budget + 1)[1:]:
            kept = _widths(model, names, importance(), float(ratio), is_global=is_global)
            nearest = problem.space.nearest(Policy.from_keep_ratios(kept))
            evaluate(problem.space.decode(nearest))

    return run


def peers(model: nn.Module) -> dict[str, Peer]:
    """Return every peer by its name in the table."""
    samplers = optuna.samplers
    l1 = lambda: tp.importance.MagnitudeImportance(p=1)  # noqa: E731
    return {
        "Optuna NSGA-II": optuna_peer(lambda seed: samplers.NSGAIISampler(seed=seed)),
        "Optuna TPE": optuna_peer(lambda seed: samplers.TPESampler(seed=seed, multivariate=True)),
        "Optuna GP": optuna_peer(lambda seed: samplers.GPSampler(seed=seed)),
        "pymoo NSGA-II": pymoo_nsga2,
        "Torch-Pruning uniform": torch_pruning_sweep(model, l1, is_global=False),
        "Torch-Pruning global": torch_pruning_sweep(model, l1, is_global=True),
        "Torch-Pruning LAMP": torch_pruning_sweep(
            model, lambda: tp.importance.LAMPImportance(p=2), is_global=True
        ),
    }


def _widths(
    model: nn.Module, names: list[str], importance: Any, ratio: float, *, is_global: bool
) -> Mapping[str, float]:
    """Return group → share of channels that Torch-Pruning keeps of the inner convolutions."""
    twin = copy.deepcopy(model).requires_grad_(True)
    modules = dict(twin.named_modules())
    inner = {name: modules[name] for name in names if ".conv1" in name}
    before = {name: each.out_channels for name, each in inner.items()}
    layers = [x for x in modules.values() if isinstance(x, nn.Conv2d | nn.Linear)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            twin,
            torch.randn(1, 3, 32, 32),
            importance=importance,
            pruning_ratio=ratio,
            max_pruning_ratio=0.9,
            global_pruning=is_global,
            ignored_layers=[x for x in layers if all(x is not y for y in inner.values())],
        )
        pruner.step()
    return {name: each.out_channels / before[name] for name, each in inner.items()}


def _ranges(problem: SearchProblem) -> list[Integer]:
    return [each for each in problem.space.parameters if isinstance(each, Integer)]
