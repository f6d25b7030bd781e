"""``minialign doctor``: what this machine has, and what to do about what is missing."""

import argparse
from dataclasses import asdict

from minialign.cli import console
from minialign.cli.flags import adder

COLOURS = {"ok": "32", "note": "33", "problem": "31"}  # ANSI; the word says the same

CONCLUSIONS = {
    "ok": "\nAll is well.",
    "note": "\nEverything needed is here; the notes say what could be better.",
    "problem": "\nTraining is not possible here until the problems above are mended.",
}


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The options of ``minialign doctor``."""
    adder(parser)("--json", "one JSON object a check")


def run(arguments: argparse.Namespace) -> int:
    """Print every check; 1 when training is impossible here, else 0."""
    from minialign.machine.doctor import checks

    count = dict.fromkeys(COLOURS, 0)
    for name, finding in checks():
        count[finding.status] += 1
        if arguments.json:
            console.emit({"name": name, **asdict(finding)})
            continue
        word = f"{finding.status:<7}"
        if console.has_colour():
            word = f"\x1b[{COLOURS[finding.status]}m{word}\x1b[0m"
        console.emit(f"{word}  {name:<10} {finding.found}")
        if finding.fix:
            console.emit(f"{'':<20} → {finding.fix}")
    worst = "problem" if count["problem"] else "note" if count["note"] else "ok"
    if not arguments.json:
        console.say(CONCLUSIONS[worst])
    return int(worst == "problem")
