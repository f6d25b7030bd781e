"""``minialign sft | reward | dpo …``: settings from flags and files, events as lines."""

import argparse
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from minialign.cli.answer_flags import scorer_help
from minialign.cli.console import emit, fetching, live_line, next_steps, say
from minialign.cli.dataclass_flags import add_fields, read_config, to_toml
from minialign.cli.flags import adder
from minialign.config import check_keys, flat, parts, resolve
from minialign.durable import read_object
from minialign.home import folder
from minialign.run_folder import Run
from minialign.training.events import Ended, Event
from minialign.training.events import as_json as json_of
from minialign.training.narrate import narrate, stop_on_interrupt, summarise

if TYPE_CHECKING:
    from minialign.methods import Method

ROUNDS = """\
minialign expert --data prompts.txt --scorer length --n 8 --rounds 3
minialign rso --data prompts.jsonl --adapter sft-1 --scorer reward:reward-1 --n 64 --accept 8
minialign online-dpo --data prompts.txt --scorer judge:self --n 2 --prompts-per-round 64

--data holds prompts (the lines of a .txt, or rows of any kind); --eval-split and --eval-data are
about prompts too: those are answered before the first and after every round. A round is a training
run of its own in RUN/rounds, with the candidates beside it. With --max-tokens or --max-minutes
sampling counts as training does. Ctrl-C saves; minialign runs resume RUN goes on.
"""
ON_POLICY = """\
minialign ppo --data prompts.txt --scorer reward:reward-1
minialign ppo --data gsm8k.jsonl --scorer exact --advantage group --n 8       # GRPO
minialign ppo --data pairs.jsonl --scorer python:short.py:reward --advantage rloo

In turns the model answers prompts, a scorer rewards the answers, and the model is trained on them.
Any rows that hold prompts will do. The reward of an answer pays for the KL to the reference: the
model without its adapter, or with the adapter that training starts from. A step is an update on
--batch-size prompts with their --n answers.

Scorers: {scorers}.
Defaults that are other than for other methods: {defaults}.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The flags of one method: its own, and those of every training run."""
    from minialign.methods import METHODS

    parser.set_defaults(command=command)
    add_method_arguments(parser, METHODS[command])


def add_method_arguments(parser: argparse.ArgumentParser, method: "Method") -> None:
    """The flags of a method that need not be in the dict of methods."""
    from minialign.training.settings import Settings

    if not method.rounds:
        parser.description = f"{parser.description}. Rows: {method.needs}."
    if method.rounds or method.on_policy:
        parser.epilog = ROUNDS if method.rounds else _on_policy_epilog(method)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = adder(parser)
    add("-c --config FILE", "settings in TOML or mlx-lm's YAML")
    add("--print-config", "print the settings in force and stop")
    add("--json", "one JSON object an event, on stdout")
    *shared, (own, _) = parts(method.config)
    for config, _ in shared:
        add_fields(parser, config, "rounds and sampling", defaults=method.defaults)
    add_fields(parser, own, f"{method.name}'s own settings")
    title = "training, in each round" if method.rounds else "training"
    add_fields(parser, Settings, title, without=method.unused)


def _on_policy_epilog(method: "Method") -> str:
    usual = method.defaults.items()
    defaults = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in usual)
    return ON_POLICY.format(scorers=scorer_help(), defaults=defaults)


def run(arguments: argparse.Namespace) -> int:
    """Start a run and show it until it ends."""
    from minialign.methods import METHODS

    return run_method(METHODS[arguments.command], arguments)


def run_method(method: "Method", arguments: argparse.Namespace) -> int:
    """Start a run of a method that need not be in the dict of methods, and show it."""
    from minialign.training.settings import Settings
    from minialign.training.start import start

    typed = vars(arguments)
    where = arguments.config or "defaults"
    values = {**method.defaults, **(read_config(arguments.config) if arguments.config else {})}
    values.pop("method", None)
    check_keys(values, (Settings, method.config), where)
    settings = resolve(Settings, values, typed, where)
    config = resolve(method.config, values, typed, where)
    if arguments.print_config:
        emit(to_toml({**flat(config), **flat(settings)}))
        return 0
    stop = threading.Event()
    with fetching() as tell:
        started, events = start(method, settings, config, stop, tell)
    with stop_on_interrupt(stop):
        if not arguments.json:
            say(f"run {started.name} in {started.path}")
        return show(started, events, as_json=arguments.json)


def show(started: Run, events: Iterator[Event], *, as_json: bool = False) -> int:
    """Print a run's events as they come; returns the exit code (130 when it was stopped)."""
    status = "stopped"
    with live_line() as line:
        for event in events:
            emit(json_of(event)) if as_json else narrate(event, line)
            if isinstance(event, Ended):
                status = event.values["status"]
    handle = started.name if started.path.parent == folder("runs") else str(started.path)
    if status == "stopped":
        if not as_json:
            say(f"stopped; go on with: minialign runs resume {handle}")
        return 130
    if not as_json:
        say(summarise(read_object(started.path / "summary.json")))
        reward = started.config["method"] == "reward"
        use = "score FILE --reward" if reward else "chat --adapter"
        next_steps(f"minialign {use} {handle}", f"minialign runs plot {handle}")
    return 0
