"""Logistic regression by Newton's method, with weights and with shares as outcomes.

The one fit behind Bradley-Terry, length control and the slopes of biases. Separable data have no
maximum: then the fit says so and gives the estimate under a weak prior instead. Libraries that fit
this (scikit-learn, statsmodels) bring SciPy along, and neither says that data are separable.
"""

from dataclasses import dataclass

import numpy as np

PRIOR = 0.25  # of separable data: a normal prior of standard deviation 2 on each coefficient
LIMIT = 12.0  # a linear predictor that goes on growing past this has no maximum to go to


@dataclass(frozen=True)
class Logistic:
    """A fit. ``coefficients`` (k,) in log-odds, ``errors`` (k,) from the inverse information."""

    coefficients: np.ndarray
    errors: np.ndarray
    separable: bool  # no maximum: these are the estimates under the prior


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    """1 / (1 + e^-x), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))


def fit(
    features: np.ndarray,
    outcomes: np.ndarray,
    weights: np.ndarray | None = None,
    prior: float = 0.0,
) -> Logistic:
    """The coefficients w that make the outcomes likeliest under sigmoid(features @ w).

    Args:
        features: (n, k), no column is added.
        outcomes: (n,) in [0, 1]; 0.5 is a tie, half a win and half a loss.
        weights: (n,), how often each row counts; 1 by default.
        prior: precision of a normal prior around 0 on every coefficient.
    """
    x = np.asarray(features, np.float64)
    y = np.asarray(outcomes, np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    used = w > 0
    x, y, w = x[used], y[used], w[used]
    c = _newton(x, y, w, prior)
    separable = c is None
    if c is None:
        prior = PRIOR
        c = _newton(x, y, w, prior)
        assert c is not None  # with a prior there is always a maximum
    p = sigmoid(x @ c)
    covariance = np.linalg.inv((x.T * (w * p * (1 - p))) @ x + prior * np.eye(len(c)))
    return Logistic(c, np.sqrt(np.diag(covariance)), separable)


def _newton(x: np.ndarray, y: np.ndarray, w: np.ndarray, prior: float) -> np.ndarray | None:
    """The maximum; None when there is none, or no single one."""
    k = x.shape[1]
    c = np.zeros(k)
    if prior == 0 and np.linalg.matrix_rank(x) < k:
        return None

    def objective(c: np.ndarray) -> float:
        z = x @ c
        return float(w @ (y * z - np.logaddexp(0.0, z)) - prior / 2 * (c @ c))

    value = objective(c)
    for _ in range(100):
        p = sigmoid(x @ c)
        gradient = x.T @ (w * (y - p)) - prior * c
        information = (x.T * (w * p * (1 - p))) @ x + prior * np.eye(k)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(step).all():
            return None
        size = 1.0
        while (after := objective(c + size * step)) < value - 1e-12 and size > 1e-6:
            size /= 2
        c, value = c + size * step, after
        if np.abs(size * step).max() < 1e-11:
            return c
        if prior == 0 and np.abs(x @ c).max() > LIMIT and np.abs(step).max() > 0.2:
            return None
    return c
