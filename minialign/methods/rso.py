"""Statistical rejection sampling: samples of the optimal policy out of samples of another.

Liu et al. 2023 (arXiv:2309.06657), section 3.2 and algorithm 1. Of candidates of pi those are
accepted that follow pi(y) exp(r(y) / beta), what maximises reward - beta KL; then pairs are made of
the accepted, labelled by the reward. Candidates are told apart by their place and not by their
text, as pi is in how often a text was drawn.
"""

import math
import random
from collections.abc import Sequence


def rejection_sample(
    rewards: Sequence[float], count: int, beta: float, chance: random.Random
) -> list[int]:
    """The places of ``count`` accepted candidates, in the order of their acceptance (algorithm 1).

    In each pass over those that are left, one is accepted with probability
    exp((r - r_max) / beta), r_max being the largest reward among them, and is taken out.

    Args:
        beta: above 0; towards 0 only the best is accepted, with a large one all are alike.

    Raises:
        ValueError: when there are fewer candidates than ``count``.
    """
    if not 0 <= count <= len(rewards):
        raise ValueError(f"{count} of {len(rewards)} candidates")
    left = list(range(len(rewards)))
    accepted: list[int] = []
    while len(accepted) < count:
        most = max(rewards[i] for i in left)
        taken = set()
        for i in left:
            if chance.random() < math.exp((rewards[i] - most) / beta):
                accepted.append(i)
                taken.add(i)
                if len(accepted) == count:
                    break
        left = [i for i in left if i not in taken]
    return accepted


def first_round(places: Sequence[int], rewards: Sequence[float]) -> list[tuple[int, int]]:
    """(winner, loser) of neighbours: of n, n // 2 pairs. A draw gives none."""
    couples = zip(places[::2], places[1::2], strict=False)
    ordered = (_ordered(a, b, rewards) for a, b in couples)
    return [(a, b) for a, b in ordered if rewards[a] > rewards[b]]


def tournament(places: Sequence[int], rewards: Sequence[float]) -> list[tuple[int, int]]:
    """The same, and then among the winners until one is left: of n, n - 1 pairs without draws. Of a
    draw the first goes on; without an opponent one goes on as well."""
    pairs = []
    while len(places) > 1:
        pairs += first_round(places, rewards)
        couples = zip(places[::2], places[1::2], strict=False)
        winners = [_ordered(a, b, rewards)[0] for a, b in couples]
        places = winners + list(places[len(places) - len(places) % 2 :])
    return pairs


def _ordered(a: int, b: int, rewards: Sequence[float]) -> tuple[int, int]:
    return (a, b) if rewards[a] >= rewards[b] else (b, a)
