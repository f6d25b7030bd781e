"""What the scripts here share: the options, the process's peak memory, one JSON line a result."""

import argparse
import json
import resource
import sys
from collections.abc import Sequence


def arguments(description: str | None, sides: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with what every script takes; a process measures one side and imports only it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", choices=sides, default=sides[0], help="what to measure")
    parser.add_argument(
        "--model", default="smollm2-135m-4bit", help="a name, a hub id or a folder in MLX layout"
    )
    return parser


def peak_memory() -> int:
    """The most memory this process has had, in bytes, everything in it counted."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(what: str, value: float, unit: str, **details: object) -> None:
    """One result on stdout. A unit that begins with "s" is better when smaller, else larger."""
    row = {"what": what, "value": value, "unit": unit, "peak_memory": peak_memory(), **details}
    print(json.dumps(row), flush=True)
