"""The command line. ``minialign COMMAND --help`` imports only that command's module.

A command module has ``add_arguments(parser, command)`` and ``run(arguments) -> exit code``, and
perhaps an ``EPILOG`` to its help. What only running it needs (MLX, models, training) is imported in
its functions: ``--help`` is instant.
stdout is data, stderr is narration; 0 is success, 2 a user's mistake, 130 an interrupt.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from minialign import __version__
from minialign.errors import UserError, nearest

# command: (module, one line of help); the order is the order of the help text
COMMANDS = {
    "models": ("minialign.cli.models", "list, pull, import, describe and remove models"),
    "data": ("minialign.cli.data", "check, show, convert, split and count training data"),
    "sft": ("minialign.cli.train", "fine-tune on demonstrations (LoRA, token NLL)"),
    "reward": ("minialign.cli.train", "train a reward head on preference pairs (Bradley-Terry)"),
    "dpo": ("minialign.cli.train", "align with preference pairs (DPO, IPO, hinge, robust)"),
    "slic": ("minialign.cli.train", "calibrate sequence likelihoods on pairs (SLiC-HF)"),
    "rrhf": ("minialign.cli.train", "align with rankings of two or more answers (RRHF)"),
    "kto": ("minialign.cli.train", "align with single answers rated good or bad (KTO)"),
    "orpo": ("minialign.cli.train", "imitate and prefer in one, no reference (ORPO)"),
    "simpo": ("minialign.cli.train", "DPO without a reference, by mean log-probs (SimPO)"),
    "conditional": ("minialign.cli.train", "learn good and bad answers, told apart by words"),
    "expert": ("minialign.cli.train", "rounds of best-of-n and SFT on the winners"),
    "rso": ("minialign.cli.train", "rejection sampling by reward, then DPO or hinge (RSO)"),
    "online-dpo": ("minialign.cli.train", "rounds of DPO on the model's own best and worst"),
    "ppo": ("minialign.cli.train", "learn from rewards of its own answers (PPO, RLOO, GRPO)"),
    "train": ("minialign.cli.own_method", "train with a method of your own: train FILE.py"),
    "runs": ("minialign.cli.runs", "list, show, plot, resume and remove training runs"),
    "generate": ("minialign.cli.generate", "answer prompts from arguments, a file or stdin"),
    "chat": ("minialign.cli.chat", "talk with a model in this terminal"),
    "label": ("minialign.cli.label", "say which of two answers is better, in this terminal"),
    "tui": ("tui.command", "the app: chat, label, train, in one window"),
    "judge": ("minialign.cli.judge", "which of two answers is better, asked in both orders"),
    "score": ("minialign.cli.score", "log-probs, implicit rewards or reward-head values"),
    "best-of-n": ("minialign.cli.best_of_n", "the best of n answers, and what n buys"),
    "sample": ("minialign.cli.sample", "rankings or pairs made of a model's own answers"),
    "synth": ("minialign.cli.synth", "training data made by a model: self-instruct, RLAIF"),
    "compare": ("minialign.cli.compare", "methods on equal terms: one start, budget and judge"),
    "evaluate": ("minialign.cli.evaluate", "win rates between models, adapters or answer files"),
    "audit": ("minialign.cli.audit", "how good a judge is: accuracy, agreement, biases"),
    "demo": ("minialign.cli.demo", "the whole loop on the embedded model, in a few minutes"),
    "doctor": ("minialign.cli.doctor", "what this machine has, and what is missing"),
    "bench": ("minialign.cli.bench", "how fast this machine is, and which models suit it"),
}

USAGE = "minialign COMMAND [OPTIONS]"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"usage: {USAGE}", "", "Align a small quantized Llama with your own preferences.", ""]
    lines += [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "minialign COMMAND --help says more; minialign demo is a good start."]
    return "\n".join(lines)


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"minialign {__version__}")
        return 0
    command = argv[0]
    if command not in COMMANDS:
        fix = f"usage: {USAGE}"
        raise UserError(f"there is no command {command!r}: {nearest(command, COMMANDS)}", fix)
    module_name, text = COMMANDS[command]
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(
        prog=f"minialign {command}",
        description=text[0].upper() + text[1:],
        allow_abbrev=False,  # --beta is not --betas
    )
    if epilog := getattr(module, "EPILOG", ""):
        parser.epilog, parser.formatter_class = epilog, argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser, command)
    return module.run(parser.parse_args(argv[1:]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"minialign: {error.problem}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nminialign: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
