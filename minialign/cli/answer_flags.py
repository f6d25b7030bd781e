"""What the commands that sample share: flags of model and sampling, their file, safe printing."""

import argparse
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.cli import console
from minialign.cli.flags import adder
from minialign.config import field_help
from minialign.durable import Journal
from minialign.errors import UserError
from minialign.sampling import Sampling

if TYPE_CHECKING:
    from minialign.engine import Engine
    from minialign.records import Prompted


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--adapter``."""
    add = adder(parser)
    name = "a name of `minialign models list`, a hub id, a folder or a GGUF file "
    add("-m --model NAME", name + "(the adapter's model, or smollm2-135m-4bit)")
    add("--adapter --adapter-path RUN", "a run's name, or an adapter's folder")


def sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of ``Sampling``; only flags that are typed are in the arguments."""
    texts = field_help(Sampling)
    add = adder(parser.add_argument_group("sampling"))
    options: dict[str, Any] = {"default": argparse.SUPPRESS}
    for name, default in asdict(Sampling()).items():
        if name == "stop":
            continue
        text = f"{texts[name] or 'most tokens of an answer'} ({default:g})"
        flags = "--temp " * (name == "temperature") + f"--{name.replace('_', '-')}"
        add(f"{flags} {'N' if type(default) is int else 'X'}", text, dest=name, **options)
    add("--stop TEXT", texts["stop"], action="append", **options)


def answer_arguments(parser: argparse.ArgumentParser) -> None:
    """Who answers many prompts, and how."""
    model_arguments(parser)
    adder(parser)("--system TEXT", "a system prompt")
    sampling_arguments(parser)
    batch_arguments(parser, "seed of the samples (0)", "answers written at once (16)")


def batch_arguments(parser: argparse.ArgumentParser, seed: str, batch_size: str) -> None:
    """``--seed`` and ``--batch-size``, with their help."""
    adder(parser)("--seed N", seed, default=0)
    adder(parser)("--batch-size N", batch_size, default=16)


def prompt_arguments(parser: argparse.ArgumentParser, n: int) -> None:
    """What ``best-of-n`` and ``sample`` share."""
    add = adder(parser)
    add("file PROMPTS", "the lines of a .txt, or rows with prompts (JSONL…)")
    add("--n -n N", f"samples of each prompt ({n})", default=n)
    add("--limit N", "only the first N prompts")
    answer_arguments(parser)


def scorer_help() -> str:
    """The kinds of scorers, for a help text."""
    return (
        "reward:RUN, dpo:RUN, judge:MODEL (judge:self: the model), exact (the row's reference "
        "answer), ifeval (the row's instructions), regex:PATTERN, length, or "
        "python:FILE.py:function of (prompt, responses)"
    )


def check_limit(arguments: argparse.Namespace, what: str) -> None:
    """Refuse a ``--limit`` below 1."""
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}", f"1 or more {what}")


def read_asked(arguments: argparse.Namespace) -> "list[Prompted]":
    """Read the prompts that are asked for."""
    from minialign.data.prompts import read_prompts

    if arguments.n < 1:
        raise UserError(f"n is {arguments.n}", "1 or more samples of each prompt")
    check_limit(arguments, "prompts")
    return read_prompts(arguments.file, arguments.system)[: arguments.limit]


def file_to_write(path: str | None) -> Path | None:
    """The file that a flag names.

    Raises:
        UserError: when no file can be written there.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"cannot write {file}", "give a file in a folder that exists")
    return file


def output_file(arguments: argparse.Namespace) -> Path | None:
    """``--output``: a file that is new or empty, or with ``--resume`` gone on with.

    Raises:
        UserError: when it is not, or no file can be there.
    """
    resuming = getattr(arguments, "resume", False)
    if resuming and not arguments.output:
        raise UserError("--resume needs the file to go on with", "-o FILE --resume")
    output = file_to_write(arguments.output or None)
    if output and not resuming and output.exists() and output.stat().st_size:
        how = "go on with it: --resume; or " if "resume" in arguments else ""
        raise UserError(f"{output} is there already", f"{how}choose another file")
    return output


def write_row(row: dict[str, Any], journal: Journal | None) -> None:
    """Append a row to the output; without one it goes to stdout."""
    journal.append(row) if journal else console.emit(row)


def sampling_from(arguments: argparse.Namespace) -> Sampling:
    """The settings that were typed, over the defaults."""
    typed = {f.name: getattr(arguments, f.name) for f in fields(Sampling) if f.name in arguments}
    if "stop" in typed:
        typed["stop"] = tuple(typed["stop"])
    return Sampling(**typed)


def open_from(arguments: argparse.Namespace) -> "Engine":
    """The engine that ``--model`` and ``--adapter`` name; a download shows its progress."""
    from minialign.engine.open import open_engine

    with console.fetching() as tell:
        return open_engine(arguments.model, arguments.adapter, tell)


def short(text: str, most: int = 60) -> str:
    """The text in one line, cut."""
    text = " ".join(text.split())
    return printable(text if len(text) <= most else text[: most - 1] + "…")


def printable(text: str) -> str:
    """The text for a terminal, where control characters of a model's must not act; elsewhere as
    it is."""
    if not sys.stdout.isatty():
        return text
    return "".join(
        "�" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text
    )
