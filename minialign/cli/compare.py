"""``minialign compare``: methods on equal terms: one start, one budget, one judge."""

import argparse
import importlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.cli import COMMANDS, compare_plots, console
from minialign.cli.flags import adder
from minialign.durable import write_atomic, write_json
from minialign.errors import UserError, nearest
from minialign.home import home
from minialign.training.narrate import stop_on_interrupt

if TYPE_CHECKING:
    from minialign.compare.plan import Plan
    from minialign.compare.process import Happened

EPILOG = """\
minialign compare examples/compare/compare.toml --dry-run      # the plan, and what it will cost
minialign compare examples/compare/compare.toml                # again: goes on, or shows it again

The file names model, data, methods, seeds, a proxy scorer that trains, a gold scorer that judges,
and one budget for all. Each part runs as a process of the ordinary command, in a folder under a
hash of its settings: what is there is used again, what was killed goes on. Written to the folder:
report.md, results.json, plots, and commands.sh, to run any part by hand.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The file, and what to do with it."""
    add = adder(parser)
    add("config CONFIG", "the comparison, in TOML", nargs="?")
    add("--out FOLDER", "where it goes (comparisons/NAME in the home)")
    add("--dry-run", "print the plan and stop")
    add("--only METHOD", "only these of the file's methods", nargs="+")
    add("--json", "the results (or the plan) as JSON")
    add("--answers SPEC.json", "one part: answer and judge, as a comparison does")


def run(arguments: argparse.Namespace) -> int:
    """Plan, run what is missing, report."""
    if arguments.answers:
        return _answers(Path(arguments.answers))
    if arguments.config is None:
        raise UserError("which comparison?", "minialign compare FILE.toml")
    from minialign.compare import run as compare
    from minialign.models.sources.fetch import ensure

    made = _plan(arguments)
    if arguments.dry_run:
        _show_plan(made, as_json=arguments.json)
        return 0
    ensure(made.one.top.model)
    made.out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    total = sum(not compare.is_done(part) for part in made.parts.values())
    console.say(f"{len(made.parts) - total} of {len(made.parts)} parts are there; {made.out}")
    number = 0
    with stop_on_interrupt() as stop, console.live_line() as line:
        for event in compare.run(made, stop):
            number += event.kind in ("started", "skipped")
            _show(event, line, f"{number}/{total}", failed)
            (made.out / "commands.sh").write_text(compare.commands(made), encoding="utf-8")
    if stop.is_set():
        said = ["minialign", "compare", arguments.config]
        said += ["--out", arguments.out] if arguments.out else []
        said += ["--only", *arguments.only] if arguments.only else []
        console.say(f"stopped; go on with: {shlex.join(said)}")
        return 130
    return _report(made, failed, as_json=arguments.json)


def _answers(spec: Path) -> int:
    from minialign.compare.answers import judge

    with console.live_line(every=2.0) as line:
        for progress in judge(spec):
            line.update(str(progress))
    return 0


def _plan(arguments: argparse.Namespace) -> "Plan":
    from minialign.compare.config import read
    from minialign.compare.plan import plan

    config = Path(arguments.config).expanduser()
    one = read(config)
    if arguments.only:
        for name in arguments.only:
            if name not in one.kinds:
                hint = nearest(name, one.kinds)
                raise UserError(f"--only {name}: {config} does not name it", hint)
        kinds = {name: kind for name, kind in one.kinds.items() if name in arguments.only}
        one = replace(one, kinds=kinds)
    out = home() / "comparisons" / config.stem
    if arguments.out:
        out = Path(arguments.out).expanduser()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "--out FOLDER")
    return plan(one, out.resolve(), settings_of)


class _Parser(argparse.ArgumentParser):
    """A parser that raises a UserError instead of ending the program."""

    def error(self, message: str) -> Any:
        raise UserError(message)


def settings_of(words: list[str]) -> set[str]:
    """The names of a command's settings, with its words parsed if there are any behind it.

    Raises:
        UserError: for what the command cannot parse.
    """
    parser = _Parser(prog=f"minialign {words[0]}", description="", allow_abbrev=False)
    importlib.import_module(COMMANDS[words[0]][0]).add_arguments(parser, words[0])
    if len(words) > 1:
        parser.parse_args(words[1:])
    known = {action.dest for action in parser._actions}
    return known - {"help", "config", "print_config", "json"}


def _show_plan(made: "Plan", *, as_json: bool) -> None:
    from minialign.compare import run as compare

    parts = [
        {
            "part": part.name,
            "state": "there" if compare.is_done(part) else "missing",
            "tokens": part.estimate,
            "seconds": 0 if compare.is_done(part) else round(compare.seconds_needed(part)),
            "folder": str(part.folder),
            "command": shlex.join(["minialign", *part.words]),
        }
        for part in made.parts.values()
    ]
    if as_json:
        console.emit({"out": str(made.out), "parts": parts})
        return
    rows = [[p["part"], p["state"], f"~{p['tokens']:,}", f"~{p['seconds']}"] for p in parts]
    console.table(["part", "state", "tokens", "seconds"], rows)
    seconds = sum(part["seconds"] for part in parts)  # type: ignore[misc]
    console.say(f"about {console.duration(seconds)} on a machine with two cores; {made.out}")
    console.say("the commands: --dry-run --json, or commands.sh once it runs")


def _show(event: "Happened", line: console.Line, where: str, failed: dict[str, str]) -> None:
    name, left = event.part.name, console.duration(event.left)
    match event.kind:
        case "started":
            line.update(f"{where} {name}, {left} left in all", force=True)
        case "says":
            line.update(f"{where} {name}: {event.text[:90]} ({left} left in all)")
        case "waits":
            line.update(f"{where} {name}: {event.text}")
        case "finished":
            line.clear()
            record = event.record
            said = [console.duration(record["seconds"])]
            said += [f"{record['tokens']:,} tokens"] if record.get("tokens") else []
            # of answers whose process outlived what started it nobody knows the peak
            said += [f"peak {console.size(m)}"] if (m := record["peak_memory"]) else []
            console.say(f"{name}: {', '.join(said)}")
        case "failed" | "skipped":
            line.clear()
            failed[name] = event.text
            console.say(f"{name} {event.kind}: {event.text}")


def _report(made: "Plan", failed: dict[str, str], *, as_json: bool) -> int:
    from minialign.compare import markdown
    from minialign.compare.report import results as results_of

    results = results_of(made, failed)
    if not results["methods"]:
        raise UserError("nothing could be compared", "; ".join(failed) or f"look into {made.out}")
    plots = []
    try:
        plots = compare_plots.draw(results, made.out)
    except UserError as reason:
        console.say(f"no plots: {reason.problem} ({reason.hint})")
    write_json(made.out / "results.json", results, indent=1)
    write_atomic(made.out / "report.md", markdown.markdown(results, plots))
    ordered = sorted(results["methods"], key=lambda row: -row["gold"][0])
    if as_json:
        console.emit(results)
    else:
        console.table(markdown.HEADERS, [markdown.cells(row) for row in ordered])
    for name in (*plots, "report.md", "results.json", "commands.sh"):
        console.say(f"{made.out / name}")
    part = made.parts.get(f"{ordered[0]['method']}-s{made.one.top.seeds[0]}")
    part = part if part and part.kind == "train" else made.parts["start"]
    console.next_steps(
        f"minialign chat --adapter {shlex.quote(str(part.result))}",
        f"less {shlex.quote(str(made.out / 'report.md'))}",
    )
    return 2 if failed else 0
