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
    group = parser.add_argument_group("judge")
    group.add_argument("--judge-url", metavar="URL", help="an OpenAI-compatible server, …/v1")
    group.add_argument("--timeout", type=float, metavar="S", help="seconds for one request (120)")
    group.add_argument("--retries", type=int, metavar="N", help="more tries for a request (5)")
    group.add_argument(
        "--template", metavar="NAME|FILE",
        help="the judge's prompt (pairwise); minialign judge --list-templates",
    )  # fmt: skip
    group.add_argument(
        "--criteria", metavar="TEXT|FILE", help="what is better, for templates that ask by it"
    )
    group.add_argument("--explain", action="store_true", help="a reason first, then the verdict")
    group.add_argument(
        "--debias", action="store_true",
        help="average the two orders' log-odds; a tie only where neither is ahead",
    )  # fmt: skip
    group.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="pairs asked at once (16)"
    )


def judge_from(
    arguments: argparse.Namespace, spec: str | None, adapter: str | None = None
) -> "Judge":
    """The judge that these flags describe; a download shows its progress."""
    from minialign.judge.open import open_judge

    if arguments.batch_size < 1:
        raise UserError(f"batch size is {arguments.batch_size}", "it must be 1 or more")
    if arguments.judge_url and adapter:
        raise UserError("both --adapter and --judge-url", "the server has its own adapters")
    for flag in ("timeout", "retries"):
        if getattr(arguments, flag) is not None and not arguments.judge_url:
            raise UserError(f"--{flag} is for an endpoint", "--judge-url http://…/v1")
    with console.fetching() as tell:
        return open_judge(
            spec, template=arguments.template, adapter=adapter, url=arguments.judge_url,
            explain=arguments.explain, debias=arguments.debias, criteria=arguments.criteria,
            timeout=arguments.timeout, retries=arguments.retries, progress=tell,
        )  # fmt: skip


def shown(found: Iterable[T], total: int, kept: str = "") -> Iterator[T]:
    """Pass verdicts through as they come, with a line that says how fast and how long; those that
    were known already do not count for the pace. ``kept`` is said of them when they end early."""
    line, last, done, fresh, seconds = console.Line(), time.monotonic(), 0, 0, 0.0
    try:
        for done, verdict in enumerate(found, 1):
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


def output_file(path: str | None) -> Path | None:
    """A file to write, whose folder is there."""
    if path is None:
        return None
    file = Path(path).expanduser()
    check_place(file)
    return file
