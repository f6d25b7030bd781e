"""The one error a user can mend: what is wrong, and what to do about it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can fix; faces print it without a traceback and exit with code 2.

    Args:
        problem: what is wrong: the file, the line, the value that was seen.
        hint: what to do about it; a command where there is one.
    """

    def __init__(self, problem: str, hint: str = ""):
        super().__init__(problem if not hint else f"{problem}\n{hint}")
        self.problem = problem
        self.hint = hint


def nearest(word: str, known: Iterable[str]) -> str:
    """``"did you mean X?"`` for the known word nearest to ``word``, or the list of all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(words)}"
