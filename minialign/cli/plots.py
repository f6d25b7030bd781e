"""Metrics over steps, drawn in the terminal or into a picture (matplotlib)."""

from pathlib import Path
from typing import Any

from minialign.errors import UserError
from minialign.runs.charts import in_terminal, ticks
from minialign.runs.summary import Series

__all__ = ["in_terminal", "picture", "ticks"]

PICTURES = (".png", ".svg", ".pdf")


def check_ending(path: Path) -> None:
    """Raise a UserError when a file's name is no picture's."""
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path}: not a picture's name", f"end it with {', '.join(PICTURES)}")


def blank(width: float, height: float, flag: str = "") -> Any:
    """An empty figure of so many inches; ``flag`` is what asked for one picture.

    Raises:
        UserError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        need = "a picture needs" if flag else "pictures need"
        without = f"   (or leave {flag} away)" if flag else ""
        raise UserError(f"{need} matplotlib", f"pip install 'minialign[plot]'{without}") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure.

    Raises:
        UserError: when the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=150)
    except OSError as reason:
        raise UserError(f"{path}: {reason.strerror}") from None


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
