"""Percentile bootstrap intervals, 95 %, over prompts (Efron 1979; clusters: Cameron et al. 2008).

What shares a cluster (the answers to one prompt, the two orders of one pair) is drawn together: a
prompt that was judged twice is no second prompt.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from minialign.statistics.shares import wilson

RESAMPLES = 2000
LEVEL = 0.95
Interval = tuple[float, float, float]  # (estimate, low, high)


def resamples(n: int, seed: int = 0, count: int = RESAMPLES) -> np.ndarray:
    """(count, n): how often each of n clusters is drawn when n are drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=count)


def quantiles(values: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap values; those that are not numbers do not count."""
    numbers = values[np.isfinite(values)]
    if not len(numbers):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(numbers, [tail, 1 - tail])
    return float(low), float(high)


def cluster_index(clusters: Sequence[Hashable] | None, n: int) -> np.ndarray:
    """(n,): the number of each value's cluster, in order of appearance; None: each its own."""
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} values")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], np.int64)


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Interval:
    """The mean of the values with its interval; without values all three are nan."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return float("nan"), float("nan"), float("nan")
    index = cluster_index(clusters, len(array))
    sums, sizes = np.bincount(index, array), np.bincount(index)
    drawn = resamples(len(sums), seed)
    low, high = quantiles((drawn @ sums) / (drawn @ sizes))
    return float(array.mean()), low, high


def share_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Interval:
    """``mean_interval`` of values in [0, 1]. Where all are won or all lost, which a bootstrap would
    call certain, it is Wilson's interval of as many trials as there are clusters."""
    interval = mean_interval(values, clusters, seed)
    return widen(interval, len({*cluster_index(clusters, len(values))}))


def widen(interval: Interval, n: int) -> Interval:
    """A share's interval over n clusters: Wilson's where the resamples all agree."""
    share, low, high = interval
    if n and (share in (0.0, 1.0) or high - low < 1e-9):
        low, high = wilson(share * n, n)
    return share, low, high


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Interval:
    """The mean of a - b over the same prompts, with its interval."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}: a pair has one of each")
    return mean_interval(np.subtract(a, b), clusters, seed)  # type: ignore[arg-type]


def statistic_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    count: int = 400,
) -> Interval:
    """Any statistic of n weighted rows, ``statistic(weights)``, with its interval; for what takes a
    fit each time ``count`` is lower."""
    index = cluster_index(clusters, n)
    drawn = resamples(int(index.max()) + 1 if n else 1, seed, count)
    low, high = quantiles(np.array([statistic(row[index].astype(float)) for row in drawn]))
    return float(statistic(np.ones(n))), low, high
