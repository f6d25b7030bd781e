"""An independent float64 copy of the preference losses, with derivatives, written from the papers."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def log_sigmoid(x):
    return np.where(x > 0, -np.log1p(np.exp(-np.abs(x))), x - np.log1p(np.exp(-np.abs(x))))


def bradley_terry(chosen, rejected, margin=0.0):
    difference = chosen - rejected - margin
    return -log_sigmoid(difference), -(1 - sigmoid(difference))


def dpo_sigmoid(chosen, rejected, beta, smoothing=0.0):
    x = beta * (chosen - rejected)
    value = -(1 - smoothing) * log_sigmoid(x) - smoothing * log_sigmoid(-x)
    return value, beta * (-(1 - smoothing) * (1 - sigmoid(x)) + smoothing * sigmoid(x))


def dpo_robust(chosen, rejected, beta, smoothing):
    x = beta * (chosen - rejected)
    value = -(1 - smoothing) * log_sigmoid(x) + smoothing * log_sigmoid(-x)
    slope = beta * (-(1 - smoothing) * (1 - sigmoid(x)) - smoothing * sigmoid(x))
    return value / (1 - 2 * smoothing), slope / (1 - 2 * smoothing)


def dpo_hinge(chosen, rejected, beta):
    x = 1 - beta * (chosen - rejected)
    return np.maximum(0, x), np.where(x > 0, -beta, 0.0)


def ipo(chosen, rejected, beta):
    x = chosen - rejected - 1 / (2 * beta)
    return x**2, 2 * x
