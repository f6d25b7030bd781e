"""Pictures of any command: a name that can be one, an empty figure, and a file of it."""

from pathlib import Path
from typing import Any

from minialign.cli.answer_flags import file_to_write
from minialign.errors import UserError

PICTURES = (".png", ".svg", ".pdf")


def check_ending(path: Path) -> None:
    """Raise a UserError when a file's name is no picture's."""
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path}: not a picture's name", f"end it with {', '.join(PICTURES)}")


def picture_to_write(path: str | None) -> Path | None:
    """The picture that a flag names.

    Raises:
        UserError: when none can be written there.
    """
    if not path:
        return None
    check_ending(Path(path).expanduser())
    return file_to_write(path)


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
