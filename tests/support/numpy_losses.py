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


def ppo_clip(ratio, advantages, clip):
    """Eq. 7 case by case: (values, derivatives by the ratio)."""
    free = np.where(advantages > 0, ratio < 1 + clip, ratio > 1 - clip)
    edge = np.where(advantages > 0, 1 + clip, 1 - clip)
    return -np.where(free, ratio, edge) * advantages, -np.where(free, advantages, 0.0)


def value_clip(values, old, returns, clip):
    """(values, derivatives by the new value)."""
    low, high = old - clip, old + clip
    near = np.minimum(np.maximum(values, low), high)
    plain, clipped = (values - returns) ** 2 / 2, (near - returns) ** 2 / 2
    inside = (values > low) & (values < high)
    slope = np.where(plain >= clipped, values - returns, np.where(inside, near - returns, 0.0))
    return np.maximum(plain, clipped), slope


def kl_k1(logps, reference):
    return logps - reference, np.ones_like(logps)


def kl_k3(logps, reference):
    x = reference - logps
    return np.exp(x) - 1 - x, 1 - np.exp(x)


def gae(rewards, values, gamma, lambda_):
    """The definition, a double sum: A_t = sum over k of (gamma lambda)^k delta_{t + k}."""
    count = len(rewards)
    after = np.append(values[1:], 0.0)
    return np.array(
        [
            sum(
                (gamma * lambda_) ** (k - t) * (rewards[k] + gamma * after[k] - values[k])
                for k in range(t, count)
            )
            for t in range(count)
        ]
    )


def rloo(rewards):
    found = np.zeros_like(rewards)
    for p, row in enumerate(rewards):
        for i in range(len(row)):
            found[p, i] = row[i] - np.mean(np.delete(row, i))
    return found


def group(rewards):
    found = np.zeros_like(rewards)
    for p, row in enumerate(rewards):
        mean = sum(row) / len(row)
        deviation = (sum((x - mean) ** 2 for x in row) / (len(row) - 1)) ** 0.5
        found[p] = [(x - mean) / (deviation + 1e-4) for x in row]
    return found
