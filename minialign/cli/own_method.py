"""``minialign train FILE.py``: train with a method of the user's own."""

import argparse

from minialign.cli.flags import adder

EPILOG = """\
minialign train examples/own_method.py --help       # its own settings, and those of all methods
minialign train examples/own_method.py --data pairs.jsonl

FILE.py defines METHOD = minialign.methods.Method(name, config, record, loss, unit, needs); the
file is run as it is, so use only files that you trust.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The file; all that follows it is for its method."""
    add = adder(parser)
    add("file FILE.py", "a Python file that defines METHOD")
    add("flags ...", "flags, as those of minialign dpo", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> int:
    """Read the method, then the flags that it has, then train."""
    from minialign.cli import train
    from minialign.methods.own import load_method

    method = load_method(arguments.file)
    parser = argparse.ArgumentParser(
        prog=f"minialign train {arguments.file}",
        description=f"Train with {method.name}",
        allow_abbrev=False,
    )
    train.add_method_arguments(parser, method)
    return train.run_method(method, parser.parse_args(arguments.flags))
