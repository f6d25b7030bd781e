"""Flags written as their help shows them, and actions of a command: ``minialign data check``."""

import argparse
from collections.abc import Callable
from typing import Any

KINDS: dict[str, type] = {"N": int, "X": float, "S": float}


def adder(parser: Any) -> Callable[..., None]:
    """Return a function that adds a flag: ``add("-o --output FILE", "text of the help")``.

    The names, then what it takes: N an int, X or S a float, anything else a text, and nothing for
    a switch. A name without a dash is a positional argument. More is passed on to argparse.
    """

    def add(spelled: str, text: str | None = None, **options: Any) -> None:
        words = spelled.split()
        names = [word for word in words if word.startswith("-")] or words[:1]
        if takes := " ".join(words[len(names) :]):
            options["metavar"] = takes
            if takes in KINDS:
                options["type"] = KINDS[takes]
        elif words[0].startswith("-") and "choices" not in options:
            options["action"] = "store_true"
        parser.add_argument(*names, help=text, **options)

    return add


def actions_of(
    parser: argparse.ArgumentParser, word: str = "ACTION", end: str = "", **options: Any
) -> Callable[..., argparse.ArgumentParser]:
    """Return what adds an action: its name, its help, the function that runs it, and what the
    help of its ``--json`` says (it has none without)."""
    actions = parser.add_subparsers(dest="action", metavar=word, required=word == "ACTION")

    def action(
        name: str, text: str, act: Any = None, json: str = "", **more: Any
    ) -> argparse.ArgumentParser:
        more = {"description": text[0].upper() + text[1:] + end, **options, **more}
        sub = actions.add_parser(name, help=text, **more)
        sub.set_defaults(act=act)
        if json:
            adder(sub)("--json", json)
        return sub

    return action
