"""``minialign synth``: training data made by a model."""

import argparse
from collections.abc import Callable

from minialign.cli import answer_flags, console
from minialign.cli.flags import actions_of, adder
from minialign.synth.texts import TEXTS, read_text

EPILOG = """\
minialign synth self-instruct seeds.txt --count 100 -o new.jsonl          # instructions, answers
minialign synth respond prompts.txt --adapter first -o answers.jsonl      # distil a model
minialign synth respond prompts.txt --url http://127.0.0.1:8080/v1 --model big -o answers.jsonl
minialign synth prefer prompts.txt -o pairs.jsonl                         # pairs by a judge
minialign synth critique prompts.txt --constitution mine.txt -o pairs.jsonl
minialign synth texts constitution > mine.txt                             # print, edit, give back

What is written is training data: rows say which model, adapter, seed and text they are from. Every
text that a model wrote is in FILE.journal.jsonl, so --resume writes nothing twice; what was left
out, and why, is in FILE.dropped.jsonl.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """``synth self-instruct|respond|prefer|critique|texts``."""
    new_action = actions_of(parser, allow_abbrev=False)

    def action(name: str, text: str, file: str = "PROMPTS") -> Callable[..., None]:
        sub = new_action(name, text)
        _shared_flags(sub, file)
        return adder(sub)

    text = "new instructions from seed tasks, and answers to them"
    add = action("self-instruct", text, "SEEDS")
    add("--count N", "rows to make (100)", default=100)
    add("--no-answers", "instructions alone")
    text = "leave out what has this ROUGE-L or more with a known one (0.7)"
    add("--similarity X", text, default=0.7)
    add("--min-words N", "of an instruction (4)", default=4)
    add("--max-words N", "the same (150)", default=150)
    add("--avoid FILE", "words to avoid, one a line")
    add("--template FILE", "how new instructions are asked for")
    add = action("respond", "answers to prompts, to train on (distillation)")
    add("-n N", "answers a prompt (1)", default=1)
    add = action("prefer", "two answers to each prompt, ordered by a judge (RLAIF)")
    add("--judge JUDGE", "a model, a run, reward:RUN (the one that writes)")
    add("--judge-url URL", "the endpoint that has --judge")
    add("--judge-template NAME", "how the judge is asked")
    add("--debias", "average the judge's two orders, instead of a tie where they differ")
    add = action("critique", "an answer and its revision by a principle (constitutional AI)")
    add("--constitution FILE", "principles, one a line")
    add("--critique FILE", "how a critique is asked for")
    add("--revision FILE", "how the new answer is asked for")
    adder(new_action("texts", "print the built-in texts", description=None))(
        "name NAME", "the one to print (list them)", nargs="?"
    )


def _shared_flags(parser: argparse.ArgumentParser, file: str) -> None:
    """The flags of all actions that make data."""
    add = adder(parser)
    add(f"file {file}", "lines of a .txt, or rows with prompts (JSONL…)")
    add("-o --output FILE", "the rows (.jsonl)", required=True)
    add("--resume", "go on with FILE, or make it longer")
    add("--json", "the counts as JSON on stdout")
    add("--limit N", f"only the first N {file.lower()}")
    answer_flags.model_arguments(parser)
    add("--url URL", "let --model of this OpenAI-compatible endpoint write (http://…/v1)")
    answer_flags.sampling_arguments(parser)
    seed = "the same seed, the same data (0)"
    answer_flags.batch_arguments(parser, seed, "texts written at once (16)")
    add("--keep-cut", "keep answers cut off at --max-tokens; they are trained without an end")
    if file == "PROMPTS":
        add("--system TEXT", "a system prompt")


def _texts(arguments: argparse.Namespace) -> int:
    if arguments.name:
        print(read_text(arguments.name).content, end="")
        return 0
    console.table(["text", "what it does"], [[key, text] for key, (text, _) in TEXTS.items()])
    console.next_steps("minialign synth texts constitution > mine.txt")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Make data, or print a text."""
    if arguments.action == "texts":
        return _texts(arguments)
    from minialign.cli import synth_run  # as it loads MLX

    return synth_run.run(arguments)
