"""``minialign doctor``: what this machine has, and what to do about what is missing."""

import argparse
import os
import sys
from dataclasses import asdict

from minialign.cli import console

COLOURS = {"ok": "32", "note": "33", "problem": "31"}  # ANSI; the word says the same


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The options of ``minialign doctor``."""
    parser.add_argument("--json", action="store_true", help="one JSON object a check")


def run(arguments: argparse.Namespace) -> int:
    """Print every check; 1 when training is impossible here, else 0."""
    from minialign.machine.doctor import checks

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    count = dict.fromkeys(COLOURS, 0)
    for check in checks():
        count[check.status] += 1
        if arguments.json:
            console.emit(asdict(check))
            continue
        word = f"{check.status:<7}"
        if colour:
            word = f"\x1b[{COLOURS[check.status]}m{word}\x1b[0m"
        console.emit(f"{word}  {check.name:<10} {check.found}")
        if check.fix:
            console.emit(f"{'':<20} → {check.fix}")
    if not arguments.json:
        if count["problem"]:
            console.say("\nTraining is not possible here until the problems above are mended.")
        elif count["note"]:
            console.say("\nEverything needed is here; the notes say what could be better.")
        else:
            console.say("\nAll is well.")
    return 1 if count["problem"] else 0
