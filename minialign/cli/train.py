"""``minialign sft | reward | dpo …``: settings from flags and files, events as lines."""

import argparse
import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from minialign.cli.console import Line, duration, emit, fetching, next_steps, say, size
from minialign.cli.dataclass_flags import add_fields, read_config, to_toml

if TYPE_CHECKING:
    from minialign.methods import Method
    from minialign.run_folder import Run
    from minialign.training.events import Event

    Start = Callable[..., tuple[Run, Iterator[Event]]]


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The flags of one method: its own, and those of every training run."""
    from minialign.methods import METHODS

    parser.set_defaults(command=command)
    add_method_arguments(parser, METHODS[command])


def add_method_arguments(
    parser: argparse.ArgumentParser, method: "Method", without: Collection[str] = ()
) -> None:
    """The same, for a method that need not be in the registry, and may have no use for some."""
    from minialign.training.settings import Settings

    parser.description = f"{parser.description}. Rows: {method.needs}."
    parser.add_argument("-c", "--config", metavar="FILE", help="settings in TOML or mlx-lm's YAML")
    parser.add_argument(
        "--print-config", action="store_true", help="print the settings in force and stop"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object an event, on stdout")
    add_fields(parser, method.config, f"{method.name}'s own settings")
    add_fields(parser, Settings, "training", without)


def run(arguments: argparse.Namespace) -> int:
    """Start a run and show it until it ends."""
    from minialign.methods import METHODS

    return run_method(METHODS[arguments.command], arguments)


def run_method(
    method: "Method",
    arguments: argparse.Namespace,
    begin: "Start | None" = None,
    defaults: dict[str, Any] | None = None,
) -> int:
    """The same, for a method that need not be in the registry, that may have a ``start`` of its own
    (settings, config, stop, progress), and other defaults of the common settings."""
    from minialign.config import check_keys, resolve
    from minialign.training.offline import start
    from minialign.training.settings import Settings

    begin = begin or functools.partial(start, method)
    typed = vars(arguments)
    values = read_config(arguments.config) if arguments.config else {}
    values = {**(defaults or {}), **values}
    where = arguments.config or "defaults"
    values.pop("method", None)
    check_keys(values, (Settings, method.config), where)
    settings = resolve(Settings, values, typed, where)
    config = resolve(method.config, values, typed, where)
    if arguments.print_config:
        emit(to_toml({**dataclasses.asdict(config), **dataclasses.asdict(settings)}))
        return 0
    stop = threading.Event()
    with fetching() as tell:
        started, events = begin(settings, config, stop, tell)
    with stop_on_interrupt(stop):
        if not arguments.json:
            say(f"run {started.name} in {started.path}")
        return show(started, events, as_json=arguments.json)


@contextlib.contextmanager
def stop_on_interrupt(stop: threading.Event | None = None) -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM sets the event once, so that a run can save; the second time it kills."""
    stop = stop or threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("\nstopping after this step (again: at once) …")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(started: "Run", events: "Iterator[Event]", *, as_json: bool = False) -> int:
    """Print a run's events as they come; returns the exit code (130 when it was stopped)."""
    line, status = Line(), "stopped"
    try:
        for event in events:
            if as_json:
                emit({key: value for key, value in dataclasses.asdict(event).items() if value})
            else:
                show_event(event, line)
            if event.kind == "end":
                status = event.values["status"]
    finally:
        line.clear()
    if status == "stopped":
        if not as_json:
            say(f"stopped; go on with: minialign runs resume {_handle(started)}")
        return 130
    if not as_json:
        _end(started)
    return 0


def _handle(started: "Run") -> str:
    from minialign.home import folder

    return started.name if started.path.parent == folder("runs") else str(started.path)


def show_event(event: "Event", line: Line) -> None:
    """One event as a line for people."""
    match event.kind:
        case "note" | "phase":
            line.clear()
            say(event.text)
        case "reference":
            cached = event.values["cached"]
            text = f"reference log-probs {event.step}/{event.total}"
            if cached:
                text += f" ({cached} were on disk)"
            if event.step == event.total:
                line.clear()
                say(text)
            elif cached < event.total:
                line.update(text)
        case "step":
            line.update(_step_text(event), force=event.step in (1, event.total))
        case "sampling":
            left = f", {duration(event.values['eta'])} left" if event.step < event.total else ""
            line.update(event.text + left)
        case "evaluating":
            line.update(f"held out {event.step}/{event.total}")
        case "eval":
            line.clear()
            say(event.text or _eval_text(event))


def _step_text(event: "Event") -> str:
    values = event.values
    parts = [f"step {event.step}/{event.total}", f"loss {values['loss']:.4f}"]
    for key in ("rewards/accuracies", "ratings/accuracies"):
        if key in values:
            parts.append(f"accuracy {values[key]:.2f}")
    if "rewards/margins" in values:
        parts.append(f"margin {values['rewards/margins']:.3f}")
    if "approx_kl" in values:
        parts.append(f"approx_kl {values['approx_kl']:.4f}, clipped {values['clipfrac']:.2f}")
    parts.append(f"{values['tokens_per_second']:.0f} tokens/s")
    parts.append(size(values["peak_memory"]))
    if event.step < event.total:
        parts.append(f"{duration(values['eta'])} left")
    return ", ".join(parts)


def _eval_text(event: "Event") -> str:
    from minialign.statistics.shares import share_text

    values = event.values
    text = f"held out, step {event.step}: loss {values['loss']:.4f}"
    if "rewards/accuracies" in values and event.step:
        rows = values["rows"]
        text += f", accuracy {share_text(round(values['rewards/accuracies'] * rows), rows)}"
        text += f"; shorter answer wins {100 * values['shorter_wins']:.1f} %"
    if "ratings/accuracies" in values and event.step:
        text += f", accuracy {100 * values['ratings/accuracies']:.1f} %"
    if "rewards/length_correlation" in values and event.step:
        text += f"; correlation of reward and length {values['rewards/length_correlation']:+.2f}"
    return text


def _end(started: "Run") -> None:
    import json

    summary = json.loads((started.path / "summary.json").read_text(encoding="utf-8"))
    say(
        f"finished: {summary['steps']} steps in {duration(summary['seconds'])}, "
        f"{summary['tokens']} tokens, peak {size(summary['peak_resident'])} "
        f"({size(summary['peak_memory'])} by MLX's count); "
        f"prompts shared in {summary['shared_batches']} of "
        f"{summary['shared_batches'] + summary['separate_batches']} batches"
    )
    handle = _handle(started)
    commands = [f"minialign chat --adapter {handle}", f"minialign runs plot {handle}"]
    if started.config["method"] == "reward":
        commands[0] = f"minialign score FILE --reward {handle}"
    next_steps(*commands)
