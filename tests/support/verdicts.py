"""What a file of verdicts holds, and an engine that must not be opened."""

from pathlib import Path

from minialign.durable import Journal
from minialign.judge.verdict_files import verdict_of


def kept_in(file: Path):
    """Every verdict of a file, in its order."""
    return [one for row in Journal.open(file).rows if (one := verdict_of(row))]


def forbidden(*arguments, **options):
    raise AssertionError("the model is opened")
