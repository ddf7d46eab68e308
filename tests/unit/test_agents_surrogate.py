"""Surrogate: its predictors are what they claim, and its plans follow from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import moocore
import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats.qmc import discrepancy

from agents._predictor import LossPredictor, Predictor
from agents._staircase import Staircase, spread_points
from agents.nsga2 import NSGA2
from agents.surrogate import Surrogate
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing import SearcherContract
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Measurement, Trial, TrialState
from tests.asking import completed, hypervolume, search, share


class TestSurrogate(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return Surrogate(problem, seed=seed, startup=6)


# -- the predictor -------------------------------------------------------------------------


def damage(inputs: np.ndarray) -> np.ndarray:
    """Return a sum over columns, 100-fold unlike, with one interaction."""
    weights = np.geomspace(0.02, 2.0, inputs.shape[1])
    return inputs**2 @ weights + inputs[:, -1] * inputs[:, -2]


def fitted(rows: int = 60, columns: int = 8) -> tuple[Predictor, np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).random((rows, columns))
    predictor = Predictor(columns)
    predictor.fit(inputs, damage(inputs), np.ones(rows))
    return predictor, inputs, damage(inputs)


def error(guess: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((guess - truth) ** 2)))


def test_a_smooth_function_is_recovered_from_few_points() -> None:
    predictor, inputs, targets = fitted()
    unseen = np.random.default_rng(1).random((200, 8))
    truth = damage(unseen)
    before = error(predictor.predict(unseen), truth)
    predictor.optimise()
    after = error(predictor.predict(unseen), truth)
    nearest = ((unseen[:, None] - inputs) ** 2).sum(axis=2).argmin(axis=1)
    assert after < 0.05 * error(np.full(200, targets.mean()), truth)
    assert after < 0.05 * error(targets[nearest], truth)
    assert after < 0.5 * before


def test_sensitive_columns_get_the_greater_relevance() -> None:
    predictor, _, _ = fitted()
    predictor.optimise()
    assert predictor.hyperparameters[:8].argmax() in (6, 7)
    assert predictor.hyperparameters[7] > predictor.hyperparameters[0] + 1.0


def test_the_gradient_is_that_of_the_posterior() -> None:
    predictor, _, _ = fitted(rows=15, columns=3)
    point = predictor.hyperparameters + np.random.default_rng(2).normal(size=6) * 0.3
    numeric = approx_fprime(point, lambda each: predictor.loss_and_gradient(each)[0], 1e-6)
    np.testing.assert_allclose(predictor.loss_and_gradient(point)[1], numeric, rtol=1e-3, atol=1e-3)


def test_the_likelihood_and_the_means_left_out_agree_with_brute_force() -> None:
    predictor, inputs, targets = fitted(rows=8, columns=2)
    covariance = brute_covariance(inputs, np.exp(2.0 * predictor.hyperparameters))
    scaled = (targets - targets.mean()) / targets.std()
    expected = 0.5 * scaled @ np.linalg.inv(covariance) @ scaled
    expected += 0.5 * np.log(np.linalg.det(covariance))
    # Where the hyperparameters stand at the start, their prior adds nothing.
    assert predictor.loss_and_gradient(predictor.hyperparameters)[0] == pytest.approx(expected)
    for row, mean in enumerate(predictor.left_out()):
        rest = np.arange(8) != row
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], scaled[rest])
        brute = covariance[row, rest] @ weights * targets.std() + targets.mean()
        assert mean == pytest.approx(brute)


def test_deviations_agree_with_brute_force() -> None:
    predictor, inputs, targets = fitted(rows=8, columns=2)
    new = np.array([[0.1, 0.9]])
    squares = np.exp(2.0 * predictor.hyperparameters)
    covariance = brute_covariance(np.vstack([inputs, new]), squares)
    known, cross = covariance[:8, :8], covariance[:8, 8]
    variance = covariance[8, 8] - squares[-1] - cross @ np.linalg.solve(known, cross)
    expected = np.sqrt(variance) * targets.std()
    assert predictor.deviation(new) == pytest.approx(expected, rel=1e-4)


def brute_covariance(inputs: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the covariance entry by entry, from its definition."""
    relevance, (trend, residual, noise) = squares[:-3], squares[-3:]
    covariance = np.empty((len(inputs), len(inputs)))
    for i, x in enumerate(inputs):
        for j, y in enumerate(inputs):
            line = sum(r * (a * b + a**2 * b**2) for r, a, b in zip(relevance, x, y, strict=True))
            d = np.sqrt(5.0 * (relevance * (x - y) ** 2).sum())
            covariance[i, j] = 1.0 + trend * line
            covariance[i, j] += residual * (1.0 + d + d**2 / 3.0) * np.exp(-d) + noise * (i == j)
    return covariance


def test_of_saturated_losses_only_the_least_damage_is_learned() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.random((60, 4)) * rng.random((60, 1))
    losses = 0.1 + 0.8 * -np.expm1(-3.0 * inputs.sum(axis=1))
    model = LossPredictor(4, 0.1, 0.9)
    model.learn(inputs, np.minimum(losses, 0.87), optimise=True)
    corners = np.array([[0.0] * 4, [1.0] * 4])
    # At 0.87, a damage of 3.3 is seen; behind it stand 12, of which the trend knows.
    assert model.predict(corners)[0] == pytest.approx(0.1, abs=0.03)
    assert model.predict(corners)[1] > 0.89
    # The deviation is one of the loss, of which little is left there.
    assert model.deviation(corners)[1] < 0.02 < model.predictor.deviation(corners)[1]


def test_losses_beyond_the_worst_and_without_a_scale_are_learned() -> None:
    inputs = np.random.default_rng(0).random((30, 3))
    for zero, worst in ((0.0, 1.0), (5.0, 5.0), (None, 2.0)):
        model = LossPredictor(3, zero, worst)
        model.learn(inputs, 4.0 * inputs[:, 0], optimise=True)
        assert np.isfinite(model.predict(inputs)).all()
        assert np.isfinite(model.deviation(inputs)).all()
    assert error(model.predict(inputs), 4.0 * inputs[:, 0]) < 0.1


# -- what is to be gained ------------------------------------------------------------------


@pytest.mark.parametrize("goals", [1, 2, 3, 4])
def test_certain_gains_are_differences_of_hypervolumes(goals: int) -> None:
    rng = np.random.default_rng(goals)
    corner = rng.uniform(1.0, 5.0, goals)
    front = rng.random((6, goals)) * corner
    news = rng.random((8, goals)) ** 2 * corner
    staircase = Staircase(np.zeros(goals), corner, own=0)
    for losses in front:
        staircase.add(losses)
    gains = staircase.gains(news, np.zeros_like(news))

    def volume(points: np.ndarray) -> float:
        return float(moocore.hypervolume(points / corner, ref=np.ones(goals)))

    exact = [volume(np.vstack([front, each])) - volume(front) for each in news]
    np.testing.assert_allclose(gains, exact, atol=0.015)
    assert gains.max() > 0.05


def test_uncertain_gains_are_means_over_outcomes() -> None:
    front = np.array([[0.2, 0.7], [0.5, 0.4]])
    staircase = Staircase(np.zeros(2), np.ones(2), own=0)
    for losses in front:
        staircase.add(losses)
    mean, deviation = np.array([[0.45, 0.5]]), np.array([[0.15, 0.1]])
    outcomes = np.random.default_rng(0).normal(mean, deviation, size=(4000, 2))
    certain = staircase.gains(outcomes, np.zeros_like(outcomes)).mean()
    assert staircase.gains(mean, deviation)[0] == pytest.approx(certain, rel=0.05)
    assert certain > 2.0 * staircase.gains(mean, np.zeros((1, 2)))[0]


def test_points_are_spread_evenly() -> None:
    for dimensions in (1, 2, 3):
        points = spread_points(dimensions)
        chance = np.random.default_rng(0).random(points.shape)
        assert discrepancy(points) < 0.2 * discrepancy(chance)


# -- the search ----------------------------------------------------------------------------


@pytest.mark.slow
def test_it_beats_nsga2_by_a_clear_margin() -> None:
    problem = small_problem(units=(32,) * 10)
    volumes = {
        searcher: [
            hypervolume(problem, search(searcher(problem, seed=seed), problem, 100))
            for seed in range(2)
        ]
        for searcher in (Surrogate, NSGA2)
    }
    assert min(volumes[Surrogate]) > max(volumes[NSGA2]) + 0.02


def test_costs_are_exact_and_losses_are_close_to_the_truth() -> None:
    problem = small_problem(units=(16,) * 5)
    searcher = Surrogate(problem, seed=0)
    search(searcher, problem, 40)
    policies = searcher.ask(4)
    space, genome = problem.space, searcher._genome
    vectors = np.array([genome.vector(space.encode(each)) for each in policies])
    means = searcher._means(vectors)
    truth = [measure(problem, each) for each in policies]
    np.testing.assert_allclose(means[:, 1], [each.value("macs") for each in truth], rtol=1e-12)
    np.testing.assert_allclose(means[:, 0], [-x.value("accuracy") for x in truth], atol=0.03)


def test_a_plan_is_spread_along_the_front() -> None:
    problem = small_problem(units=(32,) * 6)
    searcher = Surrogate(problem, seed=0, batch=8)
    search(searcher, problem, 30)
    shares = sorted(share(problem, policy) for policy in searcher.ask(11)[3:])
    assert max(shares) - min(shares) > 0.15
    assert len({round(each, 3) for each in shares}) >= 7


def test_trials_under_way_count_as_measured() -> None:
    problem = small_problem(units=(32,) * 6)
    searcher = Surrogate(problem, seed=0)
    search(searcher, problem, 30)
    means = searcher._means(np.array(searcher._plan()))
    with_them = searcher._staircase(means)
    searcher._under_way = {}
    without = searcher._staircase(means)
    certain = np.zeros_like(means)
    for losses in means:
        assert without.gains(losses[None], certain[:1]) >= with_them.gains(
            losses[None], certain[:1]
        )
        with_them.add(losses)
        assert with_them.gains(losses[None], certain[:1]) == pytest.approx(0.0, abs=1e-6)


def test_it_learns_from_others() -> None:
    problem = small_problem(units=(16,) * 6)
    searcher = Surrogate(problem, seed=1)
    searcher.ask(20)  # its own design, never told
    for policy in search(NSGA2(problem, seed=0, population=20), problem, 60):
        searcher.tell(completed(problem, policy))
    late = [policy.recipe.criterion for policy in searcher.ask(20)]
    assert late.count("l1") > 17


def refuse_above(limit: float) -> Callable[[SearchProblem, Policy], Trial]:
    """Return an end that refuses costly policies before their accuracy is known."""

    def end(problem: SearchProblem, policy: Policy) -> Trial:
        trial = completed(problem, policy)
        assert trial.evaluation is not None
        if share(problem, policy) <= limit:
            return trial
        known = {"macs": trial.evaluation.measurements["macs"]}
        broken = {"macs": share(problem, policy) / limit - 1.0}
        refused = Evaluation(known, violations=broken)
        return replace(trial, state=TrialState.INFEASIBLE, evaluation=refused)

    return end


def fail_above(limit: float) -> Callable[[SearchProblem, Policy], Trial]:
    """Return an end that measures everything, and finds accuracies below `limit` unlawful."""

    def end(problem: SearchProblem, policy: Policy) -> Trial:
        trial = completed(problem, policy)
        assert trial.evaluation is not None
        lack = limit - trial.evaluation.value("accuracy")
        if lack <= 0.0:
            return trial
        return replace(trial, evaluation=replace(trial.evaluation, violations={"accuracy": lack}))

    return end


@pytest.mark.parametrize("end", [refuse_above(0.1), fail_above(0.9)])
def test_broken_constraints_keep_it_out_of_their_region(
    end: Callable[[SearchProblem, Policy], Trial],
) -> None:
    problem = small_problem(units=(16,) * 6)
    policies = search(Surrogate(problem, seed=0), problem, 80, end)
    ends = [end(problem, policy).evaluation for policy in policies[-40:]]
    assert sum(each is not None and each.is_feasible for each in ends) > 25


def test_failed_policies_are_neither_learned_from_nor_asked_again() -> None:
    problem = small_problem(units=(4, 4))
    searcher = Surrogate(problem, seed=0, startup=4)
    asked: list[Policy] = []
    while policies := searcher.ask(3):
        asked += policies
        for policy in policies:
            trial = completed(problem, policy)
            is_bad = len(asked) % 2
            searcher.tell(replace(trial, state=TrialState.FAILED) if is_bad else trial)
    assert len({policy.sha256 for policy in asked}) == len(asked) == 32
    assert not searcher._under_way
    assert searcher._results == sum(1 for n in range(3, 33, 3) if n % 2 == 0) * 3 + 2


def test_results_are_bounded_and_the_best_and_most_various_stay() -> None:
    problem = small_problem(units=(32,) * 4, criteria=("l1",))
    searcher = Surrogate(problem, seed=0, startup=2)
    rng = np.random.default_rng(0)
    # Many are alike: an eighth of the range everywhere.
    points = np.vstack([rng.random((200, 5)), rng.uniform(0.2, 0.325, size=(400, 5))])
    vectors = searcher._genome.from_unit(points)
    policies = [searcher._decode(each) for each in vectors]
    for policy in policies:
        searcher.tell(completed(problem, policy))
    assert 300 <= len(searcher._told) < 320
    kept = {each.tobytes() for each in searcher._vectors}
    losses = np.array([problem.losses(completed(problem, each)) for each in policies])
    best = vectors[moocore.is_nondominated(losses)]
    assert all(each.tobytes() in kept for each in best)
    assert sum(each.tobytes() in kept for each in vectors[:200]) > 150


@pytest.mark.parametrize("names", [["accuracy"], ["macs"], ["accuracy", "macs", "params", "size"]])
def test_it_searches_any_number_of_goals(names: list[str]) -> None:
    problem = small_problem(units=(8,) * 4)
    goals = [Goal(name, "1", "max" if name == "accuracy" else "min") for name in names]
    problem = replace(problem, goals=tuple(goals), dense=None)

    def end(problem: SearchProblem, policy: Policy) -> Trial:
        costs = problem.costs.costs(policy)
        accuracy = measure(problem, policy).value("accuracy")
        values = {"accuracy": accuracy, "macs": costs.macs, "params": costs.params}
        values["size"] = 4.0 * costs.params + costs.macs
        evaluation = Evaluation({name: Measurement(values[name]) for name in names})
        return Trial(0, policy, "x", 0, TrialState.COMPLETED, evaluation=evaluation)

    searcher = Surrogate(problem, seed=0, startup=8)
    policies = search(searcher, problem, 30, end)
    assert len({policy.sha256 for policy in policies}) == 30
    assert searcher._queue
    if names == ["accuracy"]:
        assert np.mean([measure(problem, x).value("accuracy") for x in policies[-10:]]) > 0.95
    if names == ["macs"]:
        assert np.mean([share(problem, x) for x in policies[-10:]]) < 0.1


@pytest.mark.parametrize("options", [{"startup": 1}, {"batch": 0}])
def test_unusable_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(PluginError, match="at least"):
        Surrogate(small_problem(), **options)
