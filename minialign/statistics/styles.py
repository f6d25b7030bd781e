"""Which style a judge gives way to: accuracy by the style of the better and of the worse answer.

The style matrix of RM-Bench (Liu et al. 2024, arXiv:2410.16184): below the diagonal, where the
better answer is the plainer one, is "hard", above it "easy". There each answer was written in three
styles; here every answer has the one that it has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STYLES = ("short", "long", "formatted")  # from plain to elaborate
_FORMATTED = re.compile(
    r"^\s*(?:[-*+•]|\d{1,2}[.)]|#{1,6}|```)(?:\s|\w|$)|\*\*|\|\s*-{3,}", re.MULTILINE
)


def style_of(text: str, median: float) -> str:
    """ "formatted" with Markdown in it (lists, headings, bold, tables, code), else "long" with more
    words than ``median``, else "short"."""
    if _FORMATTED.search(text):
        return "formatted"
    return "long" if len(text.split()) > median else "short"


@dataclass(frozen=True)
class Cell:
    """The pairs whose better answer has one style and whose worse answer has another."""

    better: str
    worse: str
    count: int
    accuracy: float


def style_matrix(better: Sequence[str], worse: Sequence[str], right: Sequence[float]) -> list[Cell]:
    """A cell for each two styles that occur; ``right`` is 1 where the better answer was chosen."""
    words = [len(text.split()) for text in (*better, *worse)]
    median = float(np.median(words)) if words else 0.0
    cells: dict[tuple[str, str], list[float]] = {}
    for good, bad, one in zip(better, worse, right, strict=True):
        cells.setdefault((style_of(good, median), style_of(bad, median)), []).append(one)
    return [
        Cell(a, b, len(cells[a, b]), float(np.mean(cells[a, b])))
        for a in STYLES
        for b in STYLES
        if (a, b) in cells
    ]
