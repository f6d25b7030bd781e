"""The flags by which a judge is asked, the judge behind them, and its verdicts as they come: what
``judge``, ``audit`` and ``evaluate`` share."""

import argparse
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from minialign.cli import console
from minialign.cli.flags import adder
from minialign.errors import UserError
from minialign.judge import Judge, JudgeOptions

T = TypeVar("T")
AT_ONCE = 0.02  # seconds; what comes sooner was known before


def judge_arguments(parser: argparse.ArgumentParser) -> None:
    """How a judge is asked."""
    add = adder(parser.add_argument_group("judge"))
    add("--judge-url URL", "an OpenAI-compatible server, …/v1")
    add("--timeout S", "seconds for one request (120)")
    add("--retries N", "more tries for a request (5)")
    add("--template NAME|FILE", "the judge's prompt (pairwise); minialign judge --list-templates")
    add("--criteria TEXT|FILE", "what is better, for templates that ask by it")
    add("--explain", "a reason first, then the verdict")
    add("--debias", "average the two orders' log-odds; a tie only where neither is ahead")
    add("--batch-size N", "pairs asked at once (16)", default=16)


def judge_from(
    arguments: argparse.Namespace, spec: str | None, adapter: str | None = None
) -> Judge:
    """The judge that these flags describe; a download shows its progress."""
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
    last, done, fresh, seconds = time.monotonic(), 0, 0, 0.0
    try:
        with console.live_line() as line:
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
        if done:
            console.say(f"\n{done} of {total} pairs are judged{kept}; the same command goes on")
        raise
