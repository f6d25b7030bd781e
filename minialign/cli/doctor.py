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
    for name, finding in checks():
        count[finding.status] += 1
        if arguments.json:
            console.emit({"name": name, **asdict(finding)})
            continue
        word = f"{finding.status:<7}"
        if colour:
            word = f"\x1b[{COLOURS[finding.status]}m{word}\x1b[0m"
        console.emit(f"{word}  {name:<10} {finding.found}")
        if finding.fix:
            console.emit(f"{'':<20} → {finding.fix}")
    if arguments.json:
        return 1 if count["problem"] else 0
    if count["problem"]:
        console.say("\nTraining is not possible here until the problems above are mended.")
        return 1
    if count["note"]:
        console.say("\nEverything needed is here; the notes say what could be better.")
    else:
        console.say("\nAll is well.")
    return 0
