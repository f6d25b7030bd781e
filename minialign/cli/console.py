"""How commands speak: data to stdout, narration, tables and progress to stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from minialign.progress import Line, Pace, Progress, Tell, duration, say, size

__all__ = ["Line", "duration", "emit", "fetching", "next_steps", "progress", "say", "size", "table"]

T = TypeVar("T")


def emit(value: Any) -> None:
    """One line of data: a string as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    print(text, flush=True)


def emit_or_show(value: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Write a value as JSON, or as people read it."""
    emit(value) if as_json else show(value)


def has_colour() -> bool:
    """Whether stdout is a terminal whose user has nothing against colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def next_steps(*commands: str) -> None:
    """What to try next: one command a line."""
    say("\nnext:")
    for command in commands:
        say(f"  {command}")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table on stdout: aligned columns, numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [[str(cell) for cell in row] for row in rows]
    view = Table(title=title or None, box=None, header_style="bold", title_justify="left")
    for index, header in enumerate(headers):
        cells = [row[index] for row in rows if row[index]]
        numeric = bool(cells) and all(cell.lstrip("+-~")[:1].isdigit() for cell in cells)
        view.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*map(Text, row))  # a model's text is never markup
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no edge to wrap at
    console.print(view)


@contextmanager
def live_line(every: float = 10.0) -> Iterator[Line]:
    """A ``Line`` that is gone at the end."""
    line = Line(every)
    try:
        yield line
    finally:
        line.clear()


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Pass ``items`` through with "label 3/10, 12 s left" as they come."""
    pace = Pace()
    with live_line() as line:
        for done, item in enumerate(items, 1):
            yield item
            at, more = Progress(label, done, total), total > done
            seconds = pace.seconds_left(at) if more else pace.seconds
            if line.live or pace.seconds > 2:
                line.update(f"{at}, {duration(seconds or 0)} {'left' if more else 'in all'}")


@contextmanager
def fetching() -> Iterator[Tell]:
    """A line that says how far a model is fetched and loaded, as long as that takes."""
    with live_line(every=5) as line:
        yield lambda what, done, total: line.update(_say_amount(what, done, total))


def _say_amount(what: str, done: int, total: int) -> str:
    share = f"{100 * done // total} %" if total else ""
    counted = total > 100_000  # bytes; smaller totals are tensors
    amount = f"{size(done)} of {size(total)}" if counted else f"{done}/{total}"
    return f"{what}: {amount} ({share})"
