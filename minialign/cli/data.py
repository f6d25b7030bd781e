"""``minialign data``: check, convert, measure, split and show training data."""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

from minialign.cli import console, data_reports
from minialign.cli.data_reports import count_of, inputs, tell_bad
from minialign.cli.flags import actions_of, adder

EPILOG = """\
FILE is JSON Lines, JSON, CSV or Parquet (.gz too), a folder with train, valid and test files, or a
data set of the hub: ORG/NAME. `minialign data formats` lists the rows that are understood.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """``data check|show|stats|convert|split|formats``."""
    new_action = actions_of(parser)

    def action(name: str, text: str, act: Callable[[argparse.Namespace], int]) -> Callable:
        add = adder(new_action(name, text, act, json="the result as JSON on stdout"))
        add("files FILE", nargs="+")
        text = "read KEY from the column COLUMN: --map chosen=better (repeatable)"
        add("--map KEY=COLUMN", text, action="append", default=[])
        add("--skip-bad", "go on without bad rows; they are written to FILE.bad.jsonl")
        return add

    text = "what is in files, which rows are bad, what two files share"
    add = action("check", text, data_reports.check)
    add("--all", "print more than 20 problems")
    add = action(
        "show", "examples as the model sees them, trained tokens marked", data_reports.show
    )
    add("-n N", "how many (3)", default=3)
    add("--start N", "the first one (1)", default=1)
    add("--model -m MODEL", "whose template and tokens (the default model)")
    add("--max-seq-length MAX_SEQ_LENGTH", "the limit (2048)", type=int, default=2048)
    text = "which assistant turns are trained (all)"
    add("--train-on", text, choices=("all", "last"), default="all")
    text = "counts, lengths, turns, and how often the longer answer wins"
    action("stats", text, data_reports.stats)("--model -m MODEL", "count this model's tokens too")
    add = action("convert", "write rows of one kind, as minialign and others read them", _convert)
    kinds = ("pairs", "messages", "ratings", "rankings", "prompts")
    add("--to", required=True, choices=kinds)
    add("-o --out OUT", "OUT.jsonl, or .jsonl.gz (stdout)")
    add("--force", "write over OUT")
    for name, text in (
        ("identical", "rows whose chosen and rejected are the same"),
        ("empty", "rows with an empty answer"),
        ("duplicates", "rows that stand earlier"),
        ("reversed", "rows that contradict an earlier one"),
    ):
        add(f"--drop-{name}", f"leave out {text}")
    add = action("split", "hold out rows, all rows of a prompt on one side", _split)
    add("--test TEST", "a share, or a number of rows (0.1)", type=float, default=0.1)
    add("--valid VALID", "the same for a valid.jsonl (0)", type=float, default=0.0)
    add("--seed SEED", type=int, default=0)
    add("-o --out FOLDER", "FOLDER/train.jsonl, test.jsonl …")
    add("--force", "write over files there")
    text = "the formats that are read, an example row each"
    new_action("formats", text, data_reports.formats, json="the result as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the actions."""
    return arguments.act(arguments)


def _convert(arguments: argparse.Namespace) -> int:
    from minialign.data.write import convert, write_whole
    from minialign.formats.findings import FINDINGS

    files, mapping, bad = inputs(arguments)
    drop = {name for name in FINDINGS if getattr(arguments, f"drop_{name}")}
    out = Path(arguments.out) if arguments.out and arguments.out != "-" else None
    with write_whole(out, force=arguments.force) if out else nullcontext(sys.stdout) as stream:
        result = convert(files, arguments.to, stream, bad, mapping=mapping, drop=drop)
    tell_bad(bad)
    if arguments.json and out:
        counts = {"rows": result.rows, "written": result.written, "unused": result.unused}
        counts |= {"found": result.findings.counts, "dropped": result.dropped}
        console.emit({**counts, "bad": len(bad.problems)})
    console.say(f"{count_of(result.rows, 'row')} read, {result.written:,} {arguments.to} written")
    for reason, count in result.unused.items():
        console.say(f"  not used: {count:,} × {reason}")
    for name, count in result.findings.counts.items():
        if count:
            done = "dropped" if name in drop else f"kept (--drop-{name} leaves them out)"
            console.say(f"  {count:,} × {FINDINGS[name]}: {done}")
    if out:
        trains = {"pairs": "dpo", "messages": "sft"}.get(arguments.to)
        train = [f"minialign {trains} --data {out}"] if trains else []
        console.next_steps(f"minialign data show {out}", *train)
    return 0


def _split(arguments: argparse.Namespace) -> int:
    from minialign.data.write import split, write_whole
    from minialign.formats.containers import ending

    files, mapping, bad = inputs(arguments)
    typed = {name: getattr(arguments, name) for name in ("valid", "test")}
    shares = {name: share for name, share in typed.items() if share}
    name = files[0].name.removesuffix(".gz").removesuffix(ending(files[0]))
    folder = Path(arguments.out or f"{name}-split")
    paths = {part: folder / f"{part}.jsonl" for part in ("train", *shares)}
    with ExitStack() as stack:
        outs = {
            part: stack.enter_context(write_whole(path, force=arguments.force))
            for part, path in paths.items()
        }
        counts = split(files, outs, shares, bad, seed=arguments.seed, mapping=mapping)
    tell_bad(bad)
    if arguments.json:
        console.emit({part: {"file": str(paths[part]), "rows": counts[part]} for part in counts})
    else:
        for part, count in counts.items():
            console.emit(f"{paths[part]}: {count_of(count, 'row')}")
    console.next_steps(
        f"minialign data check {' '.join(f'{folder}/{part}.jsonl' for part in counts)}"
    )
    return 0
