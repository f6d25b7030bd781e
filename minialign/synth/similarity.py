"""ROUGE-L between texts: the longest common subsequence of their words."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from minialign.errors import UserError


@cache
def rapidfuzz() -> Any:
    """The library.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import rapidfuzz
    except ImportError:
        said = "similar texts are found with rapidfuzz, which is not installed"
        raise UserError(said, "pip install 'minialign[synth]'") from None
    return rapidfuzz


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation, in any script."""
    return re.findall(r"\w+", text.casefold())


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """ROUGE-L's F-measure of two lists of words, 2 LCS / (|a| + |b|) (Lin 2004, eq. 4, beta 1).

    That is 1 - (insertions + deletions) / (|a| + |b|), which rapidfuzz calls the normalized Indel
    similarity. 0 when one is empty.
    """
    if not a or not b:
        return 0.0
    return rapidfuzz().distance.Indel.normalized_similarity(a, b)


def most_similar(
    new: Sequence[str], known: Sequence[Sequence[str]], least: float
) -> tuple[int, float] | None:
    """(which of ``known`` is the most similar, its ROUGE-L); None when all are below ``least``."""
    if not new:
        return None
    fuzz = rapidfuzz()
    nearest = fuzz.process.extractOne(
        new, known, scorer=fuzz.distance.Indel.normalized_similarity, score_cutoff=least
    )
    return (nearest[2], nearest[1]) if nearest else None
