"""An independent float64 copy of the losses, with derivatives, written from the papers."""

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


def slic_rank(chosen, rejected, delta):
    x = delta - chosen + rejected
    return np.maximum(0, x), np.where(x > 0, -1.0, 0.0)


def rrhf_rank(means, scores, prompt_of):
    """(value of each response, derivative of the sum of all), pair by pair."""
    values, slopes = np.zeros(len(means)), np.zeros(len(means))
    for i in range(len(means)):
        for j in range(len(means)):
            if prompt_of[i] == prompt_of[j] and scores[i] < scores[j] and means[i] > means[j]:
                values[i] += means[i] - means[j]
                slopes[i] += 1
                slopes[j] -= 1
    return values, slopes


def kto(ratios, good, kl, beta, desirable=1.0, undesirable=1.0):
    """Eq. 8 case by case: lambda_y - v(x, y), and its derivative by the ratio."""
    above, below = sigmoid(beta * (ratios - kl)), sigmoid(beta * (kl - ratios))
    value = np.where(good, desirable - desirable * above, undesirable - undesirable * below)
    slope = beta * above * below
    return value, np.where(good, -desirable * slope, undesirable * slope)


def orpo_odds_ratio(chosen, rejected):
    """(values, derivatives by chosen and by rejected), through the probabilities themselves."""
    p, q = np.exp(chosen), np.exp(rejected)
    x = np.log(p / (1 - p)) - np.log(q / (1 - q))
    outer = -(1 - sigmoid(x))
    return -log_sigmoid(x), outer / (1 - p), -outer / (1 - q)


def simpo(chosen, rejected, beta, gamma):
    x = beta * (chosen - rejected) - gamma
    return -log_sigmoid(x), -beta * (1 - sigmoid(x))
