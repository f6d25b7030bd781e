"""``minialign runs``: list, show, plot, resume and remove training runs."""

import argparse
import contextlib
import json
import math
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minialign.cli import console
from minialign.cli.flags import actions_of, adder
from minialign.errors import UserError
from minialign.run_folder import Run, list_runs, remove_run
from minialign.runs import summary as task
from minialign.training.narrate import stop_on_interrupt

MARKS = {"new": "·", "running": "▶", "finished": "✓", "stopped": "■", "failed": "✗"}
MARKS |= {"interrupted": "!", "broken": "✗"}


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The options of ``minialign runs``; without a verb it lists."""
    parser.set_defaults(act=_list, json=False)
    verb = actions_of(parser, "VERB", end=".")
    as_json = "data: one JSON object a line"
    verb("list", "all runs, oldest first", _list, as_json)

    text = "one run: changed options, state, last metrics, files"
    adder(verb("show", text, _show, as_json))("run", "name or folder of a run")

    add = adder(verb("plot", "metrics over steps, in this terminal or as a picture", _plot))
    add("runs RUN", "drawn together; default: the newest", nargs="*")
    text = "metrics, e.g. loss,rewards/accuracies (default: what the run has of these)"
    add("--keys KEYS", text)
    add("--kind", choices=("train", "eval", "both"), default="both")
    text = "moving average of the training steps, 0 (none) to 0.99"
    add("--smooth W", text, type=float, default=0.0)
    add("--out OUT", "write a picture (.png, .svg, .pdf) instead", type=Path)
    add("--height HEIGHT", "lines of a chart (default: 12)", type=int, default=12)
    add("--json", as_json)

    text = "go on with a run that was stopped, killed or failed"
    adder(verb("resume", text, _resume, as_json))("run", "name or folder of a run")

    add = adder(verb("rm", "delete runs with all their files", _remove))
    add("runs RUN", "names or folders", nargs="+")
    add("-y --yes", "do not ask")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    return arguments.act(arguments)


def _list(arguments: argparse.Namespace) -> int:
    summaries = [task.summarize(each) for each in list_runs()]
    if arguments.json:
        for summary in summaries:
            console.emit(asdict(summary))
        return 0
    if not summaries:
        console.say("There are no runs yet.")
        console.next_steps("minialign demo", "minialign dpo --data PAIRS.jsonl")
        return 0
    headers = ("run", "method", "model", "status", "step", "loss", "acc", "eval acc", "age", "size")
    rows = []
    for one in summaries:
        status = f"{MARKS.get(one.status, ' ')} {one.status}"
        step = f"{one.step}/{one.total}" if one.total else one.step or ""
        loss = "" if one.loss is None else f"{one.loss:.4g}"
        accuracies = one.accuracy, one.eval_accuracy
        shares = ["" if share is None else f"{100 * share:.0f} %" for share in accuracies]
        taken = console.duration(one.age), console.size(one.bytes)
        rows.append((one.name, one.method, one.model, status, step, loss, *shares, *taken))
    console.table(headers, rows)
    for one in summaries:
        if one.message:
            console.say(f"{one.name}: {one.message}")
    newest = summaries[-1].name
    console.next_steps(f"minialign runs show {newest}", f"minialign runs plot {newest}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    which = Run.open(arguments.run)
    summary = task.summarize(which)
    changed = task.changed_options(which) if summary.status != "broken" else {}
    last = task.last_metrics(which)
    steps = which.checkpoints()
    following = _next_commands(summary)
    if arguments.json:
        names = "name", "bytes", "about"
        facts = {
            **asdict(summary),
            "pid": which.pid(),
            "config": which.config if summary.status != "broken" else None,
            "changed": {key: value for key, (value, _) in changed.items()},
            "last": last,
            "checkpoints": steps,
            "files": [dict(zip(names, file, strict=True)) for file in task.files(which)],
            "next": following,
        }
        console.emit(_finite(facts))
        return 0
    of = f" of {summary.total}" if summary.total else ""
    process = f", process {pid}" if (pid := which.pid()) else ""
    console.emit(
        f"{summary.name}  {MARKS.get(summary.status, ' ')} {summary.status}, step {summary.step}"
        f"{of}, {console.duration(summary.age)} ago{process}"
    )
    if summary.message:
        console.emit(f"  {summary.message}")
    console.emit(f"  {summary.method} on {summary.model}\n  {summary.path}")
    if changed:
        console.emit("\noptions that are not the default:")
        rows = [(key, _text(value), _text(default)) for key, (value, default) in changed.items()]
        console.table(("option", "value", "default"), rows)
    if last:
        console.emit("\nlast metrics:")
        console.table(*_last_table(last))
    console.emit(f"\ncheckpoints: {', '.join(map(str, steps)) or 'none'}\n\nfiles:")
    files = [(name, console.size(size), about) for name, size, about in task.files(which)]
    console.table(("file", "size", ""), files)
    console.next_steps(*following)
    return 0


def _last_table(last: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headers, rows): a metric a row, a column each for training and evaluation."""
    last = {kind: last[kind] for kind in ("train", "eval") if kind in last}
    headers = ["", *(f"{kind} (step {row['step']})" for kind, row in last.items())]
    keys = dict.fromkeys(key for row in last.values() for key in row if key not in task.HIDDEN)
    return headers, [[key, *(_text(row.get(key, "")) for row in last.values())] for key in keys]


def _next_commands(summary: task.Summary) -> list[str]:
    """What makes sense after looking at a run of this status."""
    at_home = any(str(each.path) == summary.path for each in list_runs())
    name = summary.name if at_home else summary.path
    if summary.status == "broken":
        return [f"minialign runs rm {name}"]
    commands = []
    if summary.status in ("new", "stopped", "interrupted", "failed"):
        commands.append(f"minialign runs resume {name}")
    if summary.step:
        commands.append(f"minialign runs plot {name}")
    if (Path(summary.path) / "adapters.safetensors").exists():
        reward = summary.method == "reward"
        use = "score FILE --reward" if reward else "chat --adapter"
        commands.append(f"minialign {use} {name}")
    return commands or [f"minialign runs show {name}"]


def _plot(arguments: argparse.Namespace) -> int:
    from minialign.cli.plots import picture
    from minialign.runs.charts import in_terminal

    if not 0 <= arguments.smooth < 1:
        raise UserError(f"--smooth {arguments.smooth}", "expected a weight from 0 to below 1")
    if not 3 <= arguments.height <= 200:
        raise UserError(f"--height {arguments.height}", "expected 3 to 200 lines")
    known = list_runs()
    if not arguments.runs and not known:
        raise UserError("there are no runs to plot yet", "minialign demo   makes one")
    chosen = [Run.open(name) for name in dict.fromkeys(arguments.runs)] or known[-1:]
    kinds = ("train", "eval") if arguments.kind == "both" else (arguments.kind,)
    keys = [key.strip() for key in (arguments.keys or "").split(",") if key.strip()]
    charts = task.series(chosen, keys or task.default_keys(chosen), kinds, arguments.smooth)
    if not charts:
        raise UserError(f"there are no {arguments.kind} steps of that", "try --kind both")
    if arguments.json:
        for lines in charts.values():
            for line in lines:
                console.emit(asdict(line))
    if arguments.out:
        picture(charts, arguments.out)
        console.say(f"wrote {arguments.out}")
    elif not arguments.json:
        colour = console.has_colour()
        width = shutil.get_terminal_size().columns
        for key, lines in charts.items():
            console.emit(in_terminal(key, lines, width, arguments.height, colour) + "\n")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    which = Run.open(arguments.run)
    _check_unlocked(which, f"minialign runs show {which.name}")
    from minialign.cli.train import show
    from minialign.training.start import resume

    with stop_on_interrupt() as stop:
        return show(which, resume(which, stop), as_json=arguments.json)


def _check_unlocked(which: Run, fix: str) -> None:
    if which.is_locked():
        raise UserError(f"run {which.name} is being trained (process {which.pid()})", fix)


def _remove(arguments: argparse.Namespace) -> int:
    chosen = [Run.open(name) for name in dict.fromkeys(arguments.runs)]
    for which in chosen:  # all or none: nothing is deleted when one of them is being trained
        _check_unlocked(which, f"stop it first: kill -INT {which.pid()}")
    if not arguments.yes and sys.stdin.isatty():
        for which in chosen:
            console.say(f"{which.path}  ({console.size(task.disk_bytes(which.path))})")
        word = "these runs" if len(chosen) > 1 else "this run"
        print(f"Delete {word}? [y/N] ", end="", file=sys.stderr, flush=True)
        with contextlib.suppress(EOFError):
            if input().strip().lower() in ("y", "yes"):
                arguments.yes = True
        if not arguments.yes:
            console.say("nothing was deleted")
            return 1
    for which in chosen:
        remove_run(which)
        console.say(f"deleted {which.path}")
    return 0


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as null, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
