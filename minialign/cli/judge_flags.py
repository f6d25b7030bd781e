"""The flags by which a judge is asked, the judge behind them, and its verdicts as they come: what
``judge``, ``audit`` and ``evaluate`` share."""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from minialign.cli import console
from minialign.cli.answer_flags import check_place
from minialign.errors import UserError

if TYPE_CHECKING:
    from minialign.judge import Judge

T = TypeVar("T")
AT_ONCE = 0.02  # seconds; what comes sooner was known before


def judge_arguments(parser: argparse.ArgumentParser) -> None:
    """How a judge is asked."""
    add = parser.add_argument_group("judge").add_argument
    template = "the judge's prompt (pairwise); minialign judge --list-templates"
    criteria = "what is better, for templates that ask by it"
    debias = "average the two orders' log-odds; a tie only where neither is ahead"
    add("--judge-url", metavar="URL", help="an OpenAI-compatible server, …/v1")
    add("--timeout", type=float, metavar="S", help="seconds for one request (120)")
    add("--retries", type=int, metavar="N", help="more tries for a request (5)")
    add("--template", metavar="NAME|FILE", help=template)
    add("--criteria", metavar="TEXT|FILE", help=criteria)
    add("--explain", action="store_true", help="a reason first, then the verdict")
    add("--debias", action="store_true", help=debias)
    add("--batch-size", type=int, default=16, metavar="N", help="pairs asked at once (16)")


def judge_from(
    arguments: argparse.Namespace, spec: str | None, adapter: str | None = None
) -> "Judge":
    """The judge that these flags describe; a download shows its progress."""
    from minialign.judge import JudgeOptions
    from minialign.judge.open import open_judge

    if arguments.batch_size < 1:
        raise UserError(f"batch size is {arguments.batch_size}", "it must be 1 or more")
    if arguments.judge_url and adapter:
        raise UserError("both --adapter and --judge-url", "the server has its own adapters")
    names = ("template", "explain", "debias", "criteria", "timeout", "retries")
    typed = {name: getattr(arguments, name) for name in names}
    for flag in ("timeout", "retries"):
        if typed[flag] is not None and not arguments.judge_url:
            raise UserError(f"--{flag} is for an endpoint", "--judge-url http://…/v1")
    options = JudgeOptions(adapter=adapter, url=arguments.judge_url, **typed)
    with console.fetching() as tell:
        return open_judge(spec, options, progress=tell)


def show_pace(verdicts: Iterable[T], total: int, kept: str = "") -> Iterator[T]:
    """Pass verdicts through as they come, with a line that says how fast and how long; those that
    were known already do not count for the pace. ``kept`` is said of them when they end early."""
    line, last, done, fresh, seconds = console.Line(), time.monotonic(), 0, 0, 0.0
    try:
        for done, verdict in enumerate(verdicts, 1):
            now = time.monotonic()
            if now - last > AT_ONCE or fresh:
                fresh, seconds = fresh + 1, seconds + now - last
            last = now
            if seconds > 2:
                left = console.duration(seconds / fresh * (total - done))
                pace = f"{60 * fresh / seconds:.0f} a minute"
                line.update(f"verdict {done}/{total}, {pace}, {left} left")
            yield verdict
    except (KeyboardInterrupt, UserError):
        line.clear()
        if done:
            console.say(f"\n{done} of {total} pairs are judged{kept}; the same command goes on")
        raise
    finally:
        line.clear()


def check_file(path: str | None) -> Path | None:
    """The file to write that a flag names, whose folder is there."""
    if path is None:
        return None
    file = Path(path).expanduser()
    check_place(file)
    return file


def check_limit(arguments: argparse.Namespace, what: str = "") -> None:
    """Refuse a ``--limit`` below 1."""
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}", f"1 or more{what}")
