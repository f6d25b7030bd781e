"""``minialign demo``: the whole loop, shown as it happens and summed up in numbers."""

import argparse
from typing import Any

from minialign.cli import console
from minialign.cli.flags import adder
from minialign.statistics.shares import share_text
from minialign.training.narrate import narrate, stop_on_interrupt

SHOWN = 3  # prompts whose answers are printed side by side


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The demo's flags."""
    add = adder(parser)
    add("--model -m MODEL", "model to align", default="smollm2-135m-4bit")
    add("--again", "start anew instead of reusing a run")
    add("--json", "print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print what happened."""
    from minialign.demo.loop import Result, Stage, demo
    from minialign.progress import Progress

    with stop_on_interrupt() as stop, console.live_line() as line:
        for event in demo(arguments.model, again=arguments.again, stop=stop):
            match event:
                case Stage(text):
                    line.clear()
                    console.say(f"\n{text}")
                case Progress(_, done, total):
                    line.update(f"{done}/{total}", force=done == total)
                case Result(values):
                    line.clear()
                    console.emit_or_show(values, arguments.json, _report)
                    return 0
                case _:
                    narrate(event, line)
    console.say("stopped; minialign demo goes on from here")
    return 130


def _report(result: dict[str, Any]) -> None:
    pairs, count = result["pairs"], len(result["prompts"])
    if result.get("reused"):
        console.say(f"showing run {result['run']} (minialign demo --again trains anew)")
    for index in range(SHOWN):
        console.emit("")
        console.emit(f"prompt  {result['prompts'][index]}")
        console.emit(f"before  {_one_line(result['before'][index])}")
        console.emit(f"after   {_one_line(result['after'][index])}")
    console.emit("")
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
    console.table(("", "before", "after"), rows)
    console.emit(
        f"baseline: the shorter answer is the chosen one in {100 * result['shorter_wins']:.0f} %"
    )
    whole, part = map(console.duration, (result["seconds"], result["training_seconds"]))
    peak = console.size(result["peak_memory"])
    console.emit(f"{whole} in all, {part} of them training; peak memory {peak}")
    console.emit(f"run {result['run']} in {result['path']}")
    console.next_steps(
        f"minialign chat --adapter {result['run']}",
        f"minialign runs show {result['run']}",
        "minialign dpo --data YOUR_PAIRS.jsonl",
    )


def _one_line(text: str) -> str:
    return " ⏎ ".join(part for part in text.splitlines() if part.strip())
