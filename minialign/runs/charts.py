"""Metrics over steps, drawn with characters (plotille): what both faces show in a terminal.

Lines are told apart by a letter on them; colour, where there is any, only helps.
"""

import math
import string
from collections.abc import Sequence

from minialign.runs.summary import Series

COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue")


def in_terminal(
    key: str, lines: Sequence[Series], width: int = 80, height: int = 12, colour: bool = False
) -> str:
    """One chart as text: a title, axes with round numbers, and a legend when it has several lines.

    ``width`` and ``height`` are in characters; the width is that of the whole chart.
    """
    from plotille import Canvas  # only a plot needs it

    low, high = _range([value for line in lines for value in line.values])
    y_ticks = ticks(low, high, min(height, max(4, height // 3)))
    labels = {tick: _short(tick, y_ticks) for tick in y_ticks}
    margin = max(len(label) for label in labels.values()) + 1
    columns = max(20, width - margin - 1)
    first = min(line.steps[0] for line in lines)
    last = max(max(line.steps[-1] for line in lines), first + 1)
    canvas = Canvas(columns, height, xmin=first, ymin=low, xmax=last, ymax=high)
    x_edge, y_edge = canvas.xmax_inside, canvas.ymax_inside  # the canvas excludes its upper limits
    points = [
        [(min(x, x_edge), min(y, y_edge)) for x, y in zip(line.steps, line.values, strict=True)]
        for line in lines
    ]
    paints = [COLOURS[index % len(COLOURS)] if colour else None for index in range(len(lines))]
    letters = [string.ascii_uppercase[i % 26] for i in range(len(lines))] if len(lines) > 1 else []
    for line, paint in zip(points, paints, strict=True):
        for before, after in zip(line[:-1] or line, line[1:] or line, strict=True):
            canvas.line(*before, *after, color=paint)
    for index, letter in enumerate(letters):  # above all lines
        for at in _letter_places(len(points[index]), index, len(lines)):
            canvas.text(*points[index][at], letter, color=paints[index])
    rows = canvas.plot(linesep="\n").split("\n")
    row_of = {
        height - 1 - min(height - 1, int((tick - low) / (high - low) * height)): tick
        for tick in y_ticks
    }
    text = [f"{key} by step"]
    for index, row in enumerate(rows):
        label = labels[row_of[index]] if index in row_of else ""
        text.append(f"{label:>{margin - 1}} {'┤' if label else '│'}{row}")
    text += _x_axis(first, last, columns, margin)
    marks = [f"{letter}  " for letter in letters] or [""]
    text += [f"{'':{margin}} {m}{one.run} {one.kind}" for m, one in zip(marks, lines, strict=True)]
    return "\n".join(row.rstrip() for row in text)


def _letter_places(points: int, index: int, lines: int) -> list[int]:
    """Where on a line its letter stands: three places, other ones than on the other lines."""
    return sorted(
        {min(points - 1, int(points * (i + (index + 1) / (lines + 1)) / 3)) for i in range(3)}
    )


def _x_axis(first: int, last: int, columns: int, margin: int) -> list[str]:
    axis, labels = ["─"] * columns, [" "] * (columns + margin + 12)
    end = 0
    for tick in ticks(first, last, max(2, columns // 14)):
        column = min(columns - 1, int((tick - first) / (last - first) * columns))
        label = f"{tick:g}"
        start = max(0, margin + 1 + column - len(label) // 2)
        if tick != int(tick) or (end and start < end + 2):
            continue
        axis[column] = "┬"
        labels[start : start + len(label)] = label
        end = start + len(label)
    word = "step"
    if end + 2 + len(word) <= columns + margin + 1:
        labels[columns + margin + 1 - len(word) : columns + margin + 1] = word
    return [" " * margin + "└" + "".join(axis), "".join(labels)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper end of the axis: the data, with a little room; never empty."""
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` round numbers (1, 2 or 5 times a power of ten) between two others."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5, 10):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [number * step for number in range(first, last + 1)]


def _short(value: float, all_ticks: Sequence[float]) -> str:
    """A tick's text, with as many decimals as its neighbours need."""
    if value and not 1e-4 <= max(map(abs, all_ticks)) < 1e6:
        return f"{value:.3g}"
    step = all_ticks[1] - all_ticks[0] if len(all_ticks) > 1 else abs(value) or 1.0
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
