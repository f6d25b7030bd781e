"""How commands speak: data to stdout, narration, tables and progress to stderr."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from minialign.progress import Pace, Progress, Tell

T = TypeVar("T")


def say(text: str = "") -> None:
    """One line of narration."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """One line of data: a string as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    print(text, flush=True)


def next_steps(*commands: str) -> None:
    """What to try next: one command a line."""
    say("\nnext:")
    for command in commands:
        say(f"  {command}")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table on stdout: aligned columns, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    rows = [[str(cell) for cell in row] for row in rows]
    view = Table(title=title or None, box=None, header_style="bold", title_justify="left")
    for index, header in enumerate(headers):
        cells = [row[index] for row in rows if row[index]]
        numeric = bool(cells) and all(cell.lstrip("+-~")[:1].isdigit() for cell in cells)
        view.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*[_plain(cell) for cell in row])
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no edge to wrap at
    console.print(view)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)  # a model's text is never markup


def duration(seconds: float) -> str:
    """ "41 s", "3 min 20 s", "2 h 5 min"."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes for people: "93 MB", "1.8 GB" (decimal units)."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


class Line:
    """A live line on a terminal's stderr; elsewhere a line every ``every`` seconds at most."""

    def __init__(self, every: float = 10.0):
        self.live = sys.stderr.isatty()
        self.every = every
        self._last = float("-inf")
        self._shown = False

    def update(self, text: str, *, force: bool = False) -> None:
        """Show ``text``; ``force`` prints it even when the last line was printed just now."""
        now = time.monotonic()
        if self.live:
            import shutil

            if force or now - self._last >= 0.1:
                text = text[: shutil.get_terminal_size().columns - 1]
                print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
                self._last, self._shown = now, True
        elif force or now - self._last >= self.every:
            say(text)
            self._last = now

    def clear(self) -> None:
        """Take the live line away, so that other text can be printed."""
        if self.live and self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Pass ``items`` through with "label 3/10, 12 s left" as they come."""
    line, pace = Line(), Pace()
    try:
        for done, item in enumerate(items, 1):
            yield item
            at = Progress(label, done, total)
            seconds = pace.seconds_left(at) if total > done else pace.seconds
            if line.live or pace.seconds > 2:
                line.update(
                    f"{at}, {duration(seconds or 0)} {'left' if total > done else 'in all'}"
                )
    finally:
        line.clear()


@contextmanager
def fetching() -> Iterator[Tell]:
    """A line that says how far a model is fetched and loaded, as long as that takes."""
    line = Line(every=5)

    def show(what: str, done: int, total: int) -> None:
        share = f"{100 * done // total} %" if total else ""
        counted = total > 100_000  # bytes; smaller totals are tensors
        amount = f"{size(done)} of {size(total)}" if counted else f"{done}/{total}"
        line.update(f"{what}: {amount} ({share})")

    try:
        yield show
    finally:
        line.clear()
