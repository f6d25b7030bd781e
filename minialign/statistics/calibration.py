"""Whether probabilities are what they say: reliability bins and the expected calibration error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bin:
    """The cases whose confidence fell in one bin."""

    low: float
    high: float
    count: int
    confidence: float  # mean
    accuracy: float


def reliability(probabilities: Sequence[float], right: Sequence[float], bins: int = 5) -> list[Bin]:
    """Bins of equal width over [0.5, 1], those that are not empty.

    Args:
        probabilities: that a beats b; the confidence is that of the likelier of the two.
        right: 1 where a is the better one, 0 where b is.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(right, np.float64)
    confidence = np.maximum(p, 1 - p)
    correct = np.where(p == 0.5, 0.5, np.where(p > 0.5, y, 1 - y))
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    filled = []
    for i in np.unique(place).tolist():
        here = place == i
        means = float(confidence[here].mean()), float(correct[here].mean())
        filled.append(Bin(float(edges[i]), float(edges[i + 1]), int(here.sum()), *means))
    return filled


def calibration_error(bins: Sequence[Bin]) -> float:
    """ECE: the mean distance of accuracy from confidence over the cases (Naeini et al. 2015; Guo et
    al. 2017); nan without any."""
    total = sum(one.count for one in bins)
    gaps = sum(one.count * abs(one.accuracy - one.confidence) for one in bins)
    return gaps / total if total else float("nan")
