"""AlpacaEval 2's length-controlled win rate: what it would be if both answers were equally long.

Dubois, Galambosi, Liang & Hashimoto 2024, "Length-Controlled AlpacaEval" (arXiv:2404.04475),
equations 1 and 2. The judge's preference for model m over baseline b on instruction x is

    q(m wins) = sigmoid( theta + phi * tanh(d / std(d)) + psi * gamma_x ),  d = len(m) - len(b)

with lengths in characters and ``std`` over all instructions; the length-controlled win rate is the
mean of q with the length term at zero. gamma_x, the instruction's difficulty, was estimated there
jointly over many models on one fixed set of 805 instructions; here the term is left out. Their L1
penalty chosen by cross-validation and the pseudo-data of two baselines that game the length serve
one leaderboard with fixed instructions; here it is maximum likelihood.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from minialign.statistics import logistic
from minialign.statistics.bootstrap import Interval, cluster_index, statistic_interval, widen
from minialign.statistics.logistic import sigmoid


@dataclass(frozen=True)
class LengthControl:
    """Win rates in 0 … 1; ``slope`` is phi: log-odds for an answer about one std longer."""

    win_rate: float
    low: float
    high: float
    slope: float
    slope_error: float
    separable: bool  # a maximum does not exist; a weak prior was used


def length_feature(lengths: Sequence[int], baseline: Sequence[int]) -> np.ndarray:
    """(n,): tanh of the difference in length over its standard deviation (n - 1 in it); zeros when
    all differences are the same, which no model can tell from theta."""
    difference = np.subtract(lengths, baseline).astype(np.float64)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread else np.zeros(len(difference))


def length_controlled(
    preferences: Sequence[float],
    lengths: Sequence[int],
    baseline: Sequence[int],
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> LengthControl:
    """The length-controlled win rate of a model over a baseline.

    Args:
        preferences: (n,) in 0 … 1, the judge's for the model: 1 a win, 0.5 a tie.
        lengths, baseline: (n,) characters of both answers.
        clusters: (n,) which prompt; the interval is a bootstrap over them.
    """
    y = np.asarray(preferences, np.float64)
    feature = length_feature(lengths, baseline)
    known = bool(feature.any())
    x = np.stack([np.ones(len(y)), *([feature] if known else [])], 1)

    def rate(weights: np.ndarray) -> float:
        return float(sigmoid(logistic.fit(x, y, weights).coefficients[0]))

    whole = logistic.fit(x, y)
    estimate: Interval = statistic_interval(rate, len(y), clusters, seed)
    if not np.ptp(y):  # all won, all tied: the resamples agree, which is no certainty
        estimate = widen((estimate[0], 0.0, 0.0), len({*cluster_index(clusters, len(y))}))
    return LengthControl(
        *estimate,
        slope=float(whole.coefficients[1]) if known else 0.0,
        slope_error=float(whole.errors[1]) if known else float("nan"),
        separable=whole.separable,
    )
