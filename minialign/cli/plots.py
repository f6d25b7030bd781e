"""Metrics over steps, drawn into a picture (matplotlib)."""

from pathlib import Path

from minialign.cli.figure import blank, check_ending, save
from minialign.runs.summary import Series


def picture(charts: dict[str, list[Series]], path: Path) -> None:
    """Write the charts, one above the other, as PNG, SVG or PDF.

    Raises:
        UserError: for another ending, without matplotlib, or when the file cannot be written.
    """
    check_ending(path)
    figure = blank(8, 3 * len(charts), "--out")
    from matplotlib.ticker import MaxNLocator

    marks = {"train": "", "eval": "o"}
    for index, (key, lines) in enumerate(charts.items()):
        axes = figure.add_subplot(len(charts), 1, index + 1)
        for number, line in enumerate(lines):
            axes.plot(
                line.steps,
                line.values,
                label=f"{line.run} {line.kind}",
                linestyle=("-", "--", "-.", ":")[number % 4],
                marker=marks.get(line.kind, "") or ("." if len(line.steps) == 1 else ""),
            )
        axes.set_ylabel(key)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    axes.set_xlabel("step")
    save(figure, path)
