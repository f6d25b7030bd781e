"""``minialign data``: check, convert, measure, split and show training data."""

import argparse
import sys

from minialign.cli import console
from minialign.cli.data_files import bad_rows, count_of, inputs, tell_bad

EPILOG = """\
FILE is JSON Lines, JSON, CSV or Parquet (.gz too), a folder with train, valid and test files, or a
data set of the hub: ORG/NAME. `minialign data formats` lists the rows that are understood.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """``data check|show|stats|convert|split|formats``."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str, files: bool = True) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text[0].upper() + text[1:])
        sub.add_argument("--json", action="store_true", help="the result as JSON on stdout")
        if files:
            sub.add_argument("files", nargs="+", metavar="FILE")
            text = "read KEY from the column COLUMN: --map chosen=better (repeatable)"
            sub.add_argument("--map", action="append", default=[], metavar="KEY=COLUMN", help=text)
            text = "go on without bad rows; they are written to FILE.bad.jsonl"
            sub.add_argument("--skip-bad", action="store_true", help=text)
        return sub

    check = action("check", "what is in files, which rows are bad, what two files share")
    check.add_argument("--all", action="store_true", help="print more than 20 problems")
    show = action("show", "examples as the model sees them, trained tokens marked")
    show.add_argument("-n", type=int, default=3, help="how many (3)")
    show.add_argument("--start", type=int, default=1, metavar="N", help="the first one (1)")
    show.add_argument("--model", "-m", help="whose template and tokens (the default model)")
    show.add_argument("--max-seq-length", type=int, default=2048, help="the limit (2048)")
    text = "which assistant turns are trained (all)"
    show.add_argument("--train-on", choices=("all", "last"), default="all", help=text)
    stats = action("stats", "counts, lengths, turns, and how often the longer answer wins")
    stats.add_argument("--model", "-m", help="count this model's tokens too")
    convert = action("convert", "write rows of one kind, as minialign and others read them")
    convert.add_argument(
        "--to", required=True, choices=("pairs", "messages", "ratings", "rankings", "prompts")
    )
    convert.add_argument("-o", "--out", metavar="OUT", help="OUT.jsonl, or .jsonl.gz (stdout)")
    convert.add_argument("--force", action="store_true", help="write over OUT")
    for name, text in (
        ("identical", "rows whose chosen and rejected are the same"),
        ("empty", "rows with an empty answer"),
        ("duplicates", "rows that stand earlier"),
        ("reversed", "rows that contradict an earlier one"),
    ):
        convert.add_argument(f"--drop-{name}", action="store_true", help=f"leave out {text}")
    split = action("split", "hold out rows, all rows of a prompt on one side")
    split.add_argument("--test", type=float, default=0.1, help="a share, or a number of rows (0.1)")
    split.add_argument("--valid", type=float, default=0.0, help="the same for a valid.jsonl (0)")
    split.add_argument("--seed", type=int, default=0)
    split.add_argument("-o", "--out", metavar="FOLDER", help="FOLDER/train.jsonl, test.jsonl …")
    split.add_argument("--force", action="store_true", help="write over files there")
    action("formats", "the formats that are read, an example row each", files=False)


def run(arguments: argparse.Namespace) -> int:
    """Run one of the actions."""
    from minialign.cli import data_reports

    actions = {
        "check": data_reports.check,
        "show": data_reports.show,
        "stats": data_reports.stats,
        "convert": _convert,
        "split": _split,
        "formats": data_reports.formats,
    }
    return actions[arguments.action](arguments)


def _convert(arguments: argparse.Namespace) -> int:
    from contextlib import nullcontext
    from pathlib import Path

    from minialign.data.write import convert, write_whole
    from minialign.formats.findings import FINDINGS

    files, mapping = inputs(arguments)
    bad = bad_rows(arguments)
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
    from contextlib import ExitStack
    from pathlib import Path

    from minialign.data.write import split, write_whole
    from minialign.formats.containers import ending

    files, mapping = inputs(arguments)
    bad = bad_rows(arguments)
    shares = {name: getattr(arguments, name) for name in ("valid", "test")}
    shares = {name: share for name, share in shares.items() if share}
    name = files[0].name.removesuffix(".gz").removesuffix(ending(files[0]))
    folder = Path(arguments.out or f"{name}-split")
    with ExitStack() as stack:
        outs = {
            part: stack.enter_context(write_whole(folder / f"{part}.jsonl", force=arguments.force))
            for part in ("train", *shares)
        }
        counts = split(files, outs, shares, bad, seed=arguments.seed, mapping=mapping)
    tell_bad(bad)
    if arguments.json:
        paths = {part: str(folder / f"{part}.jsonl") for part in counts}
        console.emit({part: {"file": paths[part], "rows": counts[part]} for part in counts})
    else:
        for part, count in counts.items():
            console.emit(f"{folder / f'{part}.jsonl'}: {count_of(count, 'row')}")
    console.next_steps(
        f"minialign data check {' '.join(f'{folder}/{part}.jsonl' for part in counts)}"
    )
    return 0
