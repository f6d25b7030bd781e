"""How commands speak: data to stdout, narration, tables and progress to stderr."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from minialign.progress import Line, Pace, Progress, Tell, duration, say, size

__all__ = [
    "Line",
    "duration",
    "emit",
    "fetching",
    "next_steps",
    "progress",
    "say",
    "size",
    "table",
]

T = TypeVar("T")


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
