"""Scorers that look at the text alone, and the user's own."""

import inspect
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minialign.errors import UserError, nearest
from minialign.records import Prompted
from minialign.rewards.scorer import Scorer


def length(prompt: Prompted, responses: Sequence[str]) -> list[float]:
    """The number of words."""
    return [float(len(response.split())) for response in responses]


def regex(pattern: str) -> Scorer:
    """1 for a response in which the pattern is found (``re.search``), 0 for any other.

    Raises:
        UserError: for a pattern that is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as reason:
        raise UserError(f"regex:{pattern}: {reason}", "Python's regular expressions") from None

    def values(prompt: Prompted, responses: Sequence[str]) -> list[float]:
        return [float(bool(compiled.search(response))) for response in responses]

    return Scorer(f"regex:{pattern}", values)


def own(spec: str) -> Scorer:
    """A function of a Python file, ``FILE.py:function``: (prompt, responses) -> numbers, with the
    prompt as a list of messages. One with a third parameter gets the row's other keys as well.

    The file is run as it is.

    Raises:
        UserError: when there is no such file or function; later, when the function raises.
    """
    name = f"python:{spec}"
    file, _, word = spec.rpartition(":")
    path = Path(file).expanduser()
    if not file or not path.is_file():
        raise UserError(f"{name}: there is no file {file or spec!r}", "python:FILE.py:function")
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    except Exception as reason:
        raise UserError(f"{file}: {type(reason).__name__}: {reason}", "mend the file") from reason
    function = names.get(word)
    if not callable(function):
        functions = [key for key, value in names.items() if inspect.isfunction(value)]
        hint = nearest(word, functions) if functions else "it has no functions"
        raise UserError(f"{file}: there is no function {word!r}", hint)
    wants_row = len(inspect.signature(function).parameters) > 2

    def values(prompt: Prompted, responses: Sequence[str]) -> Sequence[float]:
        row = [prompt.extra] if wants_row else []
        try:
            return function(prompt.prompt, list(responses), *row)
        except Exception as reason:
            *_, (_, line) = traceback.walk_tb(reason.__traceback__)
            problem = f"{file}:{word}: {type(reason).__name__}: {reason}, line {line}"
            raise UserError(problem, "mend the function") from reason

    return Scorer(name, values)
