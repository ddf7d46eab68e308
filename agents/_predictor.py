"""Regression of losses over the unit cube by Gaussian processes, with their uncertainty.

Rasmussen and Williams, "Gaussian processes for machine learning", 2006, chapters 2 and 5.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

_ROOT5 = np.sqrt(5.0)
# Added to the diagonal, as a share of its mean, so that a covariance can be factorised.
_JITTER = 1e-8
# Where the hyperparameters are expected, in standard deviations of the targets, and how far
# their logarithms stray and may go: without it, thirty of them cannot be told from twenty
# results.
_TREND, _RESIDUAL, _NOISE = 1.0, 0.3, 0.1
_SPREAD = 1.5
_REACH = 5.0
_STEPS = 25
# Of losses beyond this share of the way to the worst value of interest, only that they lie
# beyond it is learned.
_SATURATED = 0.95
_IMPUTATIONS = 3


class Predictor:
    """A trend that is a sum over the columns, plus a Matérn 5/2 process on top of it.

    The trend of a column is a polynomial of degree two that is zero at zero. Every column
    has a relevance, which scales its trend and its distances; relevances and amplitudes are
    the most likely ones a posteriori. Inputs have shape (n, columns).
    """

    def __init__(self, columns: int) -> None:
        relevances = np.full(columns, -0.5 * np.log(columns))
        self._expected = np.concatenate([relevances, np.log([_TREND, _RESIDUAL, _NOISE])])
        self.hyperparameters = self._expected

    def fit(self, inputs: np.ndarray, targets: np.ndarray, noise: np.ndarray) -> None:
        """Condition on targets, shape (n,), whose noise has these relative variances, (n,)."""
        self._inputs, self._noise = inputs, noise
        self._centre = float(targets.mean())
        self._scale = float(targets.std()) or 1.0
        self._targets = (targets - self._centre) / self._scale
        amplitude = self._squares(self.hyperparameters)[1][2]
        self._factor = self._factorised(self._covariance(inputs), amplitude)
        self._weights = cho_solve(self._factor, self._targets)

    def optimise(self) -> None:
        """Improve the hyperparameters from where they stand, for what was fitted last."""
        found = minimize(
            self.loss_and_gradient,
            self.hyperparameters,
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack([self._expected - _REACH, self._expected + _REACH], axis=1),
            options={"maxiter": _STEPS},
        )
        self.hyperparameters = found.x
        self.fit(self._inputs, self._targets * self._scale + self._centre, self._noise)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return means, shape (n,)."""
        mean: np.ndarray = self._covariance(inputs) @ self._weights * self._scale + self._centre
        return mean

    def deviation(self, inputs: np.ndarray) -> np.ndarray:
        """Return the standard deviations of the means, shape (n,)."""
        relevance, amplitudes = self._squares(self.hyperparameters)
        trend = (inputs**2 + inputs**4) @ relevance
        explained = solve_triangular(self._factor[0], self._covariance(inputs).T, lower=True)
        variance = 1.0 + amplitudes[0] * trend + amplitudes[1] - (explained**2).sum(axis=0)
        deviation: np.ndarray = np.sqrt(np.maximum(variance, 0.0)) * self._scale
        return deviation

    def left_out(self) -> np.ndarray:
        """Return the mean at every fitted input from all the others, shape (n,)."""
        inverse = cho_solve(self._factor, np.eye(len(self._weights)))
        others: np.ndarray = self._targets - self._weights / inverse.diagonal()
        return others * self._scale + self._centre

    def loss_and_gradient(self, hyperparameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior of hyperparameters, up to a constant."""
        relevance, amplitudes = self._squares(hyperparameters)
        inputs = self._inputs
        trend, residual, slope = _kernels(inputs, inputs, relevance)
        covariance = 1.0 + amplitudes[0] * trend + amplitudes[1] * residual
        factor = self._factorised(covariance, amplitudes[2])
        weights = cho_solve(factor, self._targets)
        # By the covariance's entries; the chain rule leads to the logarithms of squares.
        by_entry = cho_solve(factor, np.eye(len(weights))) - np.outer(weights, weights)
        by_product = amplitudes[0] * by_entry
        by_distance = amplitudes[1] * by_entry * slope
        by_relevance = (
            _diagonal(inputs, by_product)
            + _diagonal(inputs**2, by_product)
            + 2.0 * (by_distance.sum(axis=1) @ inputs**2 - _diagonal(inputs, by_distance))
        )
        by_amplitude = [
            (by_entry * trend).sum(),
            (by_entry * residual).sum(),
            by_entry.diagonal() @ self._noise,
        ]
        gradient = np.concatenate([relevance * by_relevance, amplitudes * by_amplitude])
        strays = (hyperparameters - self._expected) / _SPREAD
        loss = 0.5 * self._targets @ weights + np.log(factor[0].diagonal()).sum()
        return loss + 0.5 * float(strays @ strays), gradient + strays / _SPREAD

    def _factorised(self, covariance: np.ndarray, noise: float) -> tuple[np.ndarray, bool]:
        """Return the Cholesky factor of a covariance with noise on its diagonal."""
        jitter = _JITTER * covariance.diagonal().mean()
        factor: tuple[np.ndarray, bool] = cho_factor(
            covariance + np.diag(noise * self._noise + jitter), lower=True
        )
        return factor

    def _covariance(self, inputs: np.ndarray) -> np.ndarray:
        """Return prior covariances with the inputs that were fitted, shape (n, fitted)."""
        relevance, amplitudes = self._squares(self.hyperparameters)
        trend, residual, _ = _kernels(inputs, self._inputs, relevance)
        covariance: np.ndarray = 1.0 + amplitudes[0] * trend + amplitudes[1] * residual
        return covariance

    def _squares(self, logarithms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the squared relevances, and those of trend, residual and noise."""
        squares = np.exp(2.0 * logarithms)
        return squares[:-3], squares[-3:]


def _kernels(
    left: np.ndarray, right: np.ndarray, relevance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return trend, residual, and the residual's derivative by the squared distance.

    Shape (left, right) each.
    """
    scaled = left * relevance
    products = scaled @ right.T
    trend = products + (left * scaled) @ (right**2).T
    squares = (scaled * left).sum(axis=1)[:, None] + right**2 @ relevance - 2.0 * products
    distance = _ROOT5 * np.sqrt(np.maximum(squares, 0.0))
    decay = np.exp(-distance)
    slope = (1.0 + distance) * decay
    return trend, slope + distance**2 * decay / 3.0, slope * (-5.0 / 6.0)


def _diagonal(columns: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the diagonal of columns' @ matrix @ columns."""
    diagonal: np.ndarray = np.einsum("ij,ij->j", columns, matrix @ columns)
    return diagonal


class LossPredictor:
    """Predicts a loss that saturates, by the damage behind it.

    Losses lie between `zero`, the dense network's, and `worst`, which a ruined network
    reaches. What several groups lose adds up before that saturation: damage is -log(1 - s)
    of the share s of the way. Where the two do not say what the way is, damage is the loss.
    """

    def __init__(self, columns: int, zero: float | None, worst: float | None) -> None:
        self.predictor = Predictor(columns)
        self._way: tuple[float, float] | None = None
        if zero is not None and worst is not None and worst > zero:
            self._way = (zero, worst - zero)

    def learn(self, inputs: np.ndarray, losses: np.ndarray, *, optimise: bool) -> None:
        """Fit to losses, shape (n,); with new hyperparameters if asked to."""
        if self._way is None:
            self.predictor.fit(inputs, losses, np.ones(len(losses)))
        else:
            self._learn_damage(inputs, (losses - self._way[0]) / self._way[1])
        if optimise:
            self.predictor.optimise()

    def _learn_damage(self, inputs: np.ndarray, shares: np.ndarray) -> None:
        is_beyond = shares >= _SATURATED
        shares = np.minimum(shares, _SATURATED)
        damage = -np.log1p(-shares)
        noise = (1.0 - shares) ** -2.0  # of equal noise in the losses, by the slope
        self.predictor.fit(inputs, damage, noise)
        # A plateau would bend the trend; instead the trend says how far beyond it leads.
        for _ in range(_IMPUTATIONS if is_beyond.any() else 0):
            beyond = np.maximum(damage, self.predictor.left_out())
            self.predictor.fit(inputs, np.where(is_beyond, beyond, damage), noise)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return expected losses, shape (n,)."""
        damage = self.predictor.predict(inputs)
        if self._way is None:
            return damage
        losses: np.ndarray = self._way[0] - self._way[1] * np.expm1(-damage)
        return losses

    def deviation(self, inputs: np.ndarray) -> np.ndarray:
        """Return the standard deviations of the expected losses, shape (n,)."""
        deviation = self.predictor.deviation(inputs)
        if self._way is None:
            return deviation
        slopes = self._way[1] * np.exp(-self.predictor.predict(inputs))
        scaled: np.ndarray = slopes * deviation
        return scaled
