"""``minialign expert | rso | online-dpo``: rounds of sampling and training, shown as they go."""

import argparse
import threading

from minialign.cli.console import emit, fetching, say
from minialign.cli.dataclass_flags import add_fields, read_config, to_toml
from minialign.cli.train import show, stop_on_interrupt

EPILOG = """\
minialign expert --data prompts.txt --scorer length --n 8 --rounds 3
minialign rso --data prompts.jsonl --adapter sft-1 --scorer reward:reward-1 --n 64 --accept 8
minialign online-dpo --data prompts.txt --scorer judge:self --n 2 --prompts-per-round 64

--data holds prompts (the lines of a .txt, or rows of any kind); --eval-split and --eval-data are
about prompts too: those are answered before the first and after every round. A round is a training
run of its own in RUN/rounds, with the candidates beside it. With --max-tokens or --max-minutes
sampling counts as training does. Ctrl-C saves; minialign runs resume RUN goes on.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The flags of one method: its own, those of the loop, and those of its training runs."""
    from minialign.methods.rounds import LOOPS, RoundSettings
    from minialign.training.rounds.run import UNUSED
    from minialign.training.settings import Settings

    loop = LOOPS[command]
    parser.set_defaults(command=command)
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-c", "--config", metavar="FILE", help="settings in TOML or mlx-lm's YAML")
    parser.add_argument(
        "--print-config", action="store_true", help="print the settings in force and stop"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object an event, on stdout")
    add_fields(parser, RoundSettings, "rounds and sampling", defaults=loop.defaults)
    add_fields(parser, loop.config, f"{loop.name}'s own settings")
    add_fields(parser, Settings, "training, in each round", without=UNUSED)


def run(arguments: argparse.Namespace) -> int:
    """Start a run and show it until it ends."""
    from minialign.config import check_keys, resolve
    from minialign.methods.rounds import LOOPS, RoundSettings
    from minialign.training.rounds.run import start
    from minialign.training.settings import Settings

    loop, typed = LOOPS[arguments.command], vars(arguments)
    values = read_config(arguments.config) if arguments.config else {}
    where = arguments.config or "defaults"
    values = {**loop.defaults, **values}
    values.pop("method", None)
    kinds = (RoundSettings, loop.config, Settings)
    check_keys(values, kinds, where)
    plan, config, settings = (resolve(kind, values, typed, where) for kind in kinds)
    if arguments.print_config:
        emit(to_toml({k: v for one in (plan, config, settings) for k, v in vars(one).items()}))
        return 0
    stop = threading.Event()
    with fetching() as tell:
        started, events = start(loop, settings, plan, config, stop, tell)
    with stop_on_interrupt(stop):
        if not arguments.json:
            say(f"run {started.name} in {started.path}")
        return show(started, events, as_json=arguments.json)
