"""What is wrong with a row of a data file, told so that a person can mend it."""

from dataclasses import dataclass
from typing import Any

TO_UTF8 = "save the file as UTF-8, for example with: iconv -f latin1 -t utf-8"


@dataclass(frozen=True)
class Problem:
    """A row that could not be read."""

    source: str  # "file:line"
    found: str
    expected: str
    fix: str
    row: Any = None  # the row as it was: an object, or the text of the line
    fatal: bool = False  # nothing behind this point of the file could be read

    def __str__(self) -> str:
        return f"{self.source}: found {self.found}; expected {self.expected}. Fix: {self.fix}"


class BadRow(Exception):
    """(found, expected, fix), raised by a reader; becomes a ``Problem`` of the row being read."""


def bad_value(value: Any, key: str, expected: str, fix: str) -> BadRow:
    """The error for a value under ``key`` that is not what was ``expected`` there."""
    return BadRow(f"{describe(value)} in {key!r}", expected, fix)


@dataclass(frozen=True)
class Unused:
    """A good row, or a part of one, that gives no record: a tied vote, a reply without a rank."""

    reason: str
    count: int = 1


def describe(value: Any) -> str:
    """A value in a few words: ``the number 5``, ``null``, ``a list of 3``, ``"some text…"``."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return "NaN" if value != value else f"the number {value}"
        case str() if not value.strip():
            return "an empty text"
        case str():
            text = value if len(value) <= 60 else value[:57] + "…"
            shown = text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
            return f'"{shown}"'
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object with the keys {', '.join(map(str, value)) or '(none)'}"
    return f"a {type(value).__name__}"
