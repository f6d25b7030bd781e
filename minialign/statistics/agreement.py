"""How well verdicts agree: with gold, with themselves when the order is swapped, with people.

A choice is "a", "b", "tie" or "unparsed", always of the responses, not of the places they were
shown in. ``forward`` are the choices with a shown first, ``backward`` with b shown first.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

Choices = Sequence[str]
Votes = Mapping[Any, Sequence[str]]  # what is voted on: the votes on it


def accuracy(choices: Choices, gold: Choices) -> float:
    """The share that is right where gold is decided (not a tie): a tie is half right, an unparsed
    verdict is wrong. nan without any. Its mean over both orders is LLMBar's "Acc." (Zeng et al.
    2023, arXiv:2310.07641)."""
    right = [
        1.0 if choice == best else 0.5 if choice == "tie" else 0.0
        for choice, best in zip(choices, gold, strict=True)
        if best in ("a", "b")
    ]
    return float(np.mean(right or [np.nan]))


def swap_agreement(forward: Choices, backward: Choices) -> float:
    """The share of items with the same choice in both orders: LLMBar's "Agr."; twice unparsed is
    the same, as there. nan without any."""
    same = [float(x == y) for x, y in zip(forward, backward, strict=True)]
    return float(np.mean(same or [np.nan]))


def cohen_kappa(x: Choices, y: Choices) -> float:
    """Agreement beyond chance, (p_o - p_e) / (1 - p_e) (Cohen 1960); nan when both always say the
    same one thing, and without any."""
    if not len(x):
        return float("nan")
    labels = sorted(set(x) | set(y))
    first, second = (np.array([labels.index(c) for c in choices]) for choices in (x, y))
    shares = [np.bincount(codes, minlength=len(labels)) / len(codes) for codes in (first, second)]
    expected = float(shares[0] @ shares[1])
    observed = float(np.mean(first == second))
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def count_agreement(judge: Votes, people: Votes, ties: bool = True) -> tuple[int, int]:
    """(votes that agree, votes compared): every vote of the judge against every person's on
    the same thing, as MT-bench counts (Zheng et al. 2023, arXiv:2306.05685, table 5).

    Without ``ties`` a comparison in which either says tie does not count.
    """
    pairs = [pair for key, votes in people.items() for pair in product(judge.get(key, ()), votes)]
    return _count(pairs, ties)


def ceiling(people: Votes, ties: bool = True) -> tuple[int, int]:
    """(votes that agree, votes compared) between any two people's votes on the same thing: what a
    judge cannot be expected to exceed by much."""
    return _count([pair for votes in people.values() for pair in combinations(votes, 2)], ties)


def _count(pairs: Sequence[tuple[str, str]], ties: bool) -> tuple[int, int]:
    kept = [pair for pair in pairs if ties or "tie" not in pair]
    return sum(x == y for x, y in kept), len(kept)
