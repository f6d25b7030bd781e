"""``minialign audit``: how good a judge is, where somebody said which answer is better."""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.cli import audit_views, console
from minialign.cli.answer_flags import check_limit, file_to_write
from minialign.cli.figure import picture_to_write
from minialign.cli.flags import adder
from minialign.cli.intervals import picture
from minialign.cli.judge_flags import judge_arguments, judge_from, show_pace

if TYPE_CHECKING:
    from minialign.audit.outcomes import Outcome
    from minialign.audit.reference_labels import Labelled

EPILOG = """\
minialign audit smollm2-135m-4bit                          # on your own labels
minialign audit smollm2-135m-4bit --gold LLMBar/Dataset    # LLMBar's folder
minialign audit reward:reward-1 --gold held-out.jsonl      # a reward model, on preference pairs
minialign audit length --gold pairs.jsonl                  # any scorer: what does length get?
minialign audit verdicts.jsonl --gold votes.jsonl          # what `minialign judge` wrote

Gold rows: {"prompt", "a", "b", "gold"} with gold a, b or tie (and subset, annotator, model_a,
model_b where known), LLMBar's or MT-bench's rows, your labels, or preference pairs. Every pair is
judged in both orders; what was asked once is not asked again, so after Ctrl-C the same command goes
on where it was.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The judge, the gold sets, and how it is asked."""
    add = adder(parser)
    judge = (
        "a model, a run (its model with its adapter), reward:RUN, dpo:RUN, another scorer "
        "(length, python:FILE.py:function…), or a file of stored verdicts"
    )
    own = "what the gold rows call the judge's own model, for self-preference (repeatable)"
    gold = "files or folders with gold choices (your own labels)"
    add("judge JUDGE", judge)
    add("--gold FILE", gold, nargs="+", default=[])
    add("--annotators NAME", "only votes of annotators whose name begins so", default="")
    add("--limit N", "only the first N pairs of a subset")
    add("--own MODEL", own, action="append", default=[])
    judge_arguments(parser)
    add("-o --output FILE", "append the verdicts to a file")
    add("--plot FILE", "draw the accuracies into a picture (.png, .svg or .pdf)")
    add("--json", "everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Judge the gold set and say what the judge is worth."""
    from minialign.audit.reference_labels import read_gold
    from minialign.audit.report import report

    check_limit(arguments, "pairs of each subset")
    plot = picture_to_write(arguments.plot)
    output = file_to_write(arguments.output)
    items = _limit(read_gold(arguments.gold, arguments.annotators), arguments.limit)
    outcomes = list(show_pace(_judge(arguments, items, output), len(items)))
    if len(outcomes) < len(items):
        console.say(f"{len(items) - len(outcomes)} pairs of the gold set have no verdict")
    result = report(outcomes, arguments.judge, arguments.own)
    console.emit_or_show(result, arguments.json, audit_views.show)
    if plot:
        picture(audit_views.bars(result), f"accuracy of {arguments.judge}", plot)
    _next(arguments, result)
    return 0


def _limit(items: "list[Labelled]", limit: int | None) -> "list[Labelled]":
    if limit is None:
        return items
    counts: Counter[str] = Counter()
    kept = []
    for one in items:
        counts[one.subset] += 1
        if counts[one.subset] <= limit:
            kept.append(one)
    return kept


def _judge(
    arguments: argparse.Namespace, items: "list[Labelled]", output: Path | None
) -> Iterator["Outcome"]:
    from minialign.audit import outcomes
    from minialign.rewards.spec import KINDS
    from minialign.scoring.open import open_scorer

    spec = arguments.judge
    file = Path(spec).expanduser()
    if file.is_file() and file.suffix in (".jsonl", ".json"):
        yield from outcomes.read_outcomes(file, items)
        return
    outcomes.check_texts(items)
    kind = spec.partition(":")[0]
    if kind in KINDS and kind not in ("reward", "dpo", "judge"):
        yield from outcomes.ask_scorer(open_scorer(spec), items)
        return
    judge = judge_from(arguments, spec)
    console.say(f"{len(items)} pairs, both orders of each")
    yield from outcomes.ask_judge(judge, items, output, arguments.batch_size)


def _next(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    if result["conclusion"]["word"] == "no better than answer length":
        console.next_steps("minialign label", "minialign models list")
    elif not Path(arguments.judge).expanduser().is_file():
        console.next_steps(f"minialign evaluate A B --judge {arguments.judge}")
