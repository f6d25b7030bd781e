"""What the actions of ``minialign data`` share: the files meant, bad rows told, counts in words."""

import argparse
from typing import Any

from minialign.cli import console


def inputs(arguments: argparse.Namespace) -> tuple[list[Any], dict[str, str], Any]:
    """(the files meant, the columns renamed, where bad rows go: kept apart with --skip-bad)."""
    from minialign.data import check as data

    mapping = data.parse_map(arguments.map)
    with console.fetching() as tell:
        files = [file for spec in arguments.files for file in data.find(spec, tell)]
    return files, mapping, data.BadRows(keep=arguments.skip_bad)


def tell_bad(bad: Any) -> None:
    """Say where the bad rows are that were left out."""
    for file, place in bad.files.items():
        count = sum(problem.source.startswith(f"{file}:") for problem in bad.problems)
        console.say(f"{file}: {count_of(count, 'bad row')} left out, now in {place}")


def count_of(count: int, word: str) -> str:
    """A count with its noun: 1 bad row, 3 bad rows."""
    if count == 1:
        return f"1 {word}"
    return f"{count:,} {word[:-1] + 'ies' if word.endswith('y') else word + 's'}"
