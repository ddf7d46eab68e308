"""Which decisions of a search mattered for which objective.

    importances(run)["error"]            # {"layer1.0.conv1": 0.31, "recipe:criterion": 0.2, ...}

Every completed trial of the lowest rung is a sample: the values of its decisions, and what was
measured. Of a random forest fitted to them, the importance of a decision is the share of the
variance that its splits explain (Breiman et al., Classification and Regression Trees, 1984), as
Optuna evaluates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.errors import InputError, PolicyError
from autoprune.run_view import RunView
from autoprune.space import Choice, Float, Parameter, Values
from autoprune.trial import Evaluation

FEWEST = 20
"""Trials without which nothing is said."""
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class ImportanceRow:
    """A decision, and its share of what explains each objective, by the objectives' names."""

    decision: str
    shares: Mapping[str, float]


def importances(run: RunView) -> dict[str, dict[str, float]]:
    """Return objective → decision → importance; of each objective they add up to 1.

    Decisions that were never taken otherwise are left out, and objectives that never changed.
    Empty with fewer than `FEWEST` trials.
    """
    samples = _samples(run)
    if len(samples) < FEWEST:
        return {}
    varied = [
        each
        for each in run.space.parameters
        if len({values[each.name] for _, values in samples}) > 1
    ]
    if len(varied) < 2:
        return {}
    found = {}
    for goal in run.goals:
        measured = [evaluation.value(goal.name) for evaluation, _ in samples]
        if len(set(measured)) > 1:
            found[goal.name] = _explained(measured, varied, [values for _, values in samples])
    return found


def rows_of(found: Mapping[str, Mapping[str, float]]) -> list[ImportanceRow]:
    """Return the decisions that matter most for any objective, and all that choose a recipe."""
    largest: dict[str, float] = {}
    for shares in found.values():
        for name, share in shares.items():
            largest[name] = max(share, largest.get(name, 0.0))
    ranked = sorted(largest, key=lambda name: -largest[name])
    chosen = [x for x in ranked if x in ranked[:_SHOWN] or x.startswith("recipe:")]
    return [
        ImportanceRow(name, {goal: shares[name] for goal, shares in found.items()})
        for name in chosen
    ]


def _samples(run: RunView) -> list[tuple[Evaluation, Values]]:
    """Return what was measured at the lowest rung, of policies that lie in the space."""
    try:
        space = run.space
    except InputError:  # one's own, which cannot be imported here
        return []
    found = []
    for trial in run.completed():
        if trial.evaluation is None or trial.rung != 0:
            continue
        try:
            found.append((trial.evaluation, space.encode(trial.policy)))
        except PolicyError:  # of a warm start, or by weights that a net generated
            continue
    return found


def _explained(
    measured: Sequence[float], varied: Sequence[Parameter], decided: Sequence[Values]
) -> dict[str, float]:
    """Return how much of what was measured every decision explains."""
    import optuna
    from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        axes = {each.name: _distribution(each) for each in varied}
        for value, values in zip(measured, decided, strict=True):
            chosen = {name: values[name] for name in axes}
            study.add_trial(
                optuna.trial.create_trial(params=chosen, distributions=axes, value=value)
            )
        shares = get_param_importances(
            study, evaluator=MeanDecreaseImpurityImportanceEvaluator(seed=0)
        )
    finally:
        optuna.logging.set_verbosity(level)
    return dict(shares)


def _distribution(parameter: Parameter) -> object:
    from optuna import distributions

    if isinstance(parameter, Choice):
        return distributions.CategoricalDistribution(parameter.options)
    if isinstance(parameter, Float):
        return distributions.FloatDistribution(parameter.low, parameter.high)
    return distributions.IntDistribution(parameter.low, parameter.high)
