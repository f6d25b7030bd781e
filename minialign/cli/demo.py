"""``minialign demo``: the whole loop, shown as it happens and summed up in numbers."""

import argparse
from typing import Any

from minialign.cli.console import Line, duration, emit, next_steps, say, size, table

SHOWN = 3  # prompts whose answers are printed side by side


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The demo's flags."""
    parser.add_argument("--model", "-m", default="smollm2-135m-4bit", help="model to align")
    parser.add_argument("--again", action="store_true", help="start anew instead of reusing a run")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print what happened."""
    from minialign.demo.loop import Result, Stage, demo
    from minialign.progress import Progress
    from minialign.training.narrate import narrate, stop_on_interrupt

    line = Line()
    with stop_on_interrupt() as stop:
        for event in demo(arguments.model, again=arguments.again, stop=stop):
            match event:
                case Stage(text):
                    line.clear()
                    say(f"\n{text}")
                case Progress(_, done, total):
                    line.update(f"{done}/{total}", force=done == total)
                case Result(values):
                    line.clear()
                    if arguments.json:
                        emit(values)
                    else:
                        _report(values)
                    return 0
                case _:
                    narrate(event, line)
    say("stopped; minialign demo goes on from here")
    return 130


def _report(result: dict[str, Any]) -> None:
    from minialign.statistics.shares import share_text

    pairs, count = result["pairs"], len(result["prompts"])
    if result.get("reused"):
        say(f"showing run {result['run']} (minialign demo --again trains anew)")
    for index in range(SHOWN):
        emit("")
        emit(f"prompt  {result['prompts'][index]}")
        emit(f"before  {_one_line(result['before'][index])}")
        emit(f"after   {_one_line(result['after'][index])}")
    emit("")
    ranked = [
        share_text(round(result[key] * pairs), pairs)
        for key in ("reward_accuracy", "logp_accuracy_before", "logp_accuracy_after")
    ]
    styled = [share_text(result[key], count) for key in ("style_before", "style_after")]
    rows = [
        ("held-out pairs: implicit reward ranks chosen first", "50 % by definition", ranked[0]),
        ("held-out pairs: log-prob ranks chosen first", *ranked[1:]),
        ("sampled answers in the pairs' style", *styled),
    ]
    table(("", "before", "after"), rows)
    emit(f"baseline: the shorter answer is the chosen one in {100 * result['shorter_wins']:.0f} %")
    emit(
        f"{duration(result['seconds'])} in all, {duration(result['training_seconds'])} of them "
        f"training; peak memory {size(result['peak_memory'])}"
    )
    emit(f"run {result['run']} in {result['path']}")
    next_steps(
        f"minialign chat --adapter {result['run']}",
        f"minialign runs show {result['run']}",
        "minialign dpo --data YOUR_PAIRS.jsonl",
    )


def _one_line(text: str) -> str:
    return " ⏎ ".join(part for part in text.splitlines() if part.strip())
