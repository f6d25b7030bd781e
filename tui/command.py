"""``minialign tui``: start the app. Textual is imported only when it runs."""

import argparse
import gc
import sys

from minialign.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Which model, and where to begin."""
    parser.epilog = (
        "Keys: F1 help, F2 chat, F3 label, F4 judge, F5 runs, F6 data and models, "
        "Ctrl-P every action, Ctrl-Q quit."
    )
    parser.add_argument(
        "-m", "--model", metavar="NAME", help="a model's name, hub id, folder or GGUF file"
    )
    parser.add_argument(
        "--adapter", "--adapter-path", metavar="RUN", help="a run's name, or an adapter's folder"
    )
    parser.add_argument(
        "--label", metavar="FILE", help="begin with labelling this file of pairs or prompts"
    )
    parser.add_argument("--theme", metavar="NAME", help="a theme; it is remembered")


def run(arguments: argparse.Namespace) -> int:
    """Run the app until the user leaves."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise UserError(
            "the app needs a terminal", "minialign chat, label and runs also work in a pipe"
        )
    from minialign.engine.mlx_thread import ModelChoice, ModelThread, leave
    from tui.app import MinialignApp

    named = arguments.model or arguments.adapter
    choice = ModelChoice(arguments.model, arguments.adapter) if named else None
    thread = ModelThread()
    app = MinialignApp(thread, choice=choice, label_source=arguments.label, theme=arguments.theme)
    gc.freeze()  # what was imported stays: a collection while somebody types is shorter
    app.run()
    thread.close(0.5)  # a model that is being loaded is not waited for
    return leave(app.return_code or 0)
