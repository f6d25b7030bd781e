"""How far a long work is: what it tells, how long the rest will take, and its line on stderr."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far something is; ``total`` is 0 when nobody knows."""

    what: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.what} {self.done}/{self.total}"


Tell = Callable[[str, int, int], None]  # called with what a ``Progress`` holds


@dataclass
class Pace:
    """How fast something goes since ``began``, when ``first`` of it was done already."""

    began: float = field(default_factory=time.monotonic)
    first: int = 0

    @property
    def seconds(self) -> float:
        """How long it goes already."""
        return time.monotonic() - self.began

    def seconds_left(self, at: Progress) -> float | None:
        """How long the rest takes; None while nothing is done."""
        if at.done <= self.first:
            return None
        return self.seconds / (at.done - self.first) * (at.total - at.done)


def say(text: str = "") -> None:
    """One line of narration."""
    print(text, file=sys.stderr, flush=True)


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
