"""Shares with their intervals: as text, one a line drawn with characters, or in a picture
(matplotlib)."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minialign.cli import console
from minialign.cli.figure import blank, save
from minialign.statistics.shares import percent


@dataclass(frozen=True)
class Bar:
    """A share (0 … 1) with its interval, and what else is marked on its line: letter or word."""

    label: str
    value: float
    low: float
    high: float
    marks: dict[str, float] = field(default_factory=dict)  # by its first letter


def span(interval: Sequence[float]) -> str:
    """Write a share with its interval as "51.0 % (40.2 to 61.8)"."""
    value, low, high = map(percent, interval)
    return f"{value} % ({low} to {high})"


def show_bars(bars: Sequence[Bar]) -> None:
    """Print the bars, as wide as the terminal is, up to 100 columns."""
    console.emit(in_terminal(bars, min(100, shutil.get_terminal_size().columns)))


def in_terminal(bars: Sequence[Bar], width: int = 80) -> str:
    """One line a bar, ├──●──┤, on an axis from 0 to 100 %."""
    margin = max((len(bar.label) for bar in bars), default=0) + 2
    columns = max(21, width - margin - 1)

    def at(share: float) -> int:
        return round(min(1.0, max(0.0, share)) * (columns - 1))

    lines = []
    for bar in bars:
        row = [" "] * columns
        row[at(0.5)] = "┊"
        row[at(bar.low) : at(bar.high) + 1] = "─" * (at(bar.high) - at(bar.low) + 1)
        row[at(bar.low)], row[at(bar.high)] = "├", "┤"
        for word, value in bar.marks.items():
            row[at(value)] = word[0].upper()
        row[at(bar.value)] = "●"
        lines.append(f"{bar.label:<{margin}}{''.join(row)}".rstrip())
    axis = [" "] * (columns + 4)
    for share in (0, 25, 50, 75, 100):
        text = str(share) if share < 100 else "100 %"
        start = max(0, min(at(share / 100) - len(text) // 2, columns + 4 - len(text)))
        axis[start : start + len(text)] = text
    lines.append(" " * margin + "".join(axis).rstrip())
    words = dict.fromkeys(word for bar in bars for word in bar.marks)
    legend = ["● with its 95 % interval", *(f"{word[0].upper()} {word}" for word in words)]
    return "\n".join([*lines, " " * margin + ", ".join(legend)])


def picture(bars: Sequence[Bar], title: str, path: Path) -> None:
    """Draw the bars into a PNG, SVG or PDF, and say where.

    Raises:
        UserError: without matplotlib, or when the file cannot be written.
    """
    figure = blank(8, 1.5 + 0.35 * len(bars), "--plot")
    axes = figure.add_subplot()
    lines = range(len(bars))
    below = [100 * (bar.value - bar.low) for bar in bars]
    above = [100 * (bar.high - bar.value) for bar in bars]
    values, label = [100 * bar.value for bar in bars], "with its 95 % interval"
    axes.errorbar(values, lines, xerr=[below, above], fmt="o", capsize=3, label=label)
    words = dict.fromkeys(word for bar in bars for word in bar.marks)
    for word, marker in zip(words, "x+^v*", strict=False):
        points = [(100 * bar.marks[word], i) for i, bar in enumerate(bars) if word in bar.marks]
        axes.plot(*zip(*points, strict=True), linestyle="", marker=marker, label=word)
    axes.axvline(50, color="grey", linestyle=":")
    axes.set_yticks(list(lines), [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("%")
    axes.set_title(title)
    axes.legend(fontsize="small")
    save(figure, path)
