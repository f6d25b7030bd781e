"""Metrics over steps, drawn into a picture (matplotlib)."""

from pathlib import Path

from minialign.errors import UserError
from minialign.runs.summary import Series

PICTURES = (".png", ".svg", ".pdf")


def picture(charts: dict[str, list[Series]], path: Path) -> None:
    """Write the charts, one above the other, as PNG, SVG or PDF.

    Raises:
        UserError: for another ending, without matplotlib, or when the file cannot be written.
    """
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path}: not a picture's name", f"end it with {', '.join(PICTURES)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        fix = "pip install 'minialign[plot]'   (or leave --out away)"
        raise UserError("a picture needs matplotlib", fix) from None
    figure = Figure(figsize=(8, 3 * len(charts)), layout="constrained")
    FigureCanvasAgg(figure)
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
    try:
        figure.savefig(path, dpi=150)
    except OSError as reason:
        raise UserError(f"{path}: {reason.strerror}") from None
