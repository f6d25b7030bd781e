"""``minialign ppo``: learning from any scorer's rewards of the model's own answers."""

import argparse

from minialign.cli.train import add_method_arguments, run_method

EPILOG = """\
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
    """PPO's own flags, and those of every training run."""
    from minialign.cli.answer_flags import scorer_help
    from minialign.methods.ppo import DEFAULTS, METHOD

    add_method_arguments(parser, METHOD, without=("dropout",))  # noise in the ratios
    defaults = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in DEFAULTS.items())
    parser.epilog = EPILOG.format(scorers=scorer_help(), defaults=defaults)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def run(arguments: argparse.Namespace) -> int:
    """Start a run and show it until it ends."""
    from minialign.methods.ppo import DEFAULTS, METHOD
    from minialign.training.online import start

    return run_method(METHOD, arguments, start, DEFAULTS)
