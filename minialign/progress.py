"""How far a long work is: what it tells, and how long the rest of it will take."""

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
