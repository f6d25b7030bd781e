"""``minialign generate``: answers to prompts from arguments, a file or stdin."""

import argparse
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from minialign.cli import answer_flags, console
from minialign.cli.answer_flags import printable
from minialign.cli.flags import adder
from minialign.durable import Journal
from minialign.errors import UserError
from minialign.records import Prompted
from minialign.sampling import Sampling

if TYPE_CHECKING:
    from minialign.engine import Engine, Request

EPILOG = """\
minialign generate "Why is the sky blue?"
minialign generate --file prompts.txt -n 4 -o answers.jsonl
git diff | minialign generate - --system "Summarise this change in one sentence."
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Where prompts come from, how answers are drawn, where they go."""
    add = adder(parser)
    add("prompts PROMPT", "a prompt; - reads one from stdin", nargs="*")
    add("--prompt PROMPT", "the same", action="append", default=[], dest="more")
    add("--file FILE", "prompts: the lines of a .txt, or rows with prompt or messages")
    add("--raw", "continue the text, no chat template")
    add("-n N", "samples of each prompt (1)", default=1)
    answer_flags.answer_arguments(parser)
    add("--json", "one JSON object an answer, on stdout")
    add("-o --output FILE", "append JSON objects to a file as answers finish")
    add("--resume", "with -o: only what is not in the file yet")


def run(arguments: argparse.Namespace) -> int:
    """Answer every prompt."""
    from minialign.samples.generate import plan_requests, resume

    sampling = answer_flags.sampling_from(arguments)
    output = answer_flags.output_file(arguments)
    asked = _read_prompts(arguments)
    if arguments.n < 1:
        raise UserError(f"-n {arguments.n}", "ask for 1 sample of each prompt or more")
    if arguments.batch_size < 1:
        raise UserError(f"batch size is {arguments.batch_size}", "it must be 1 or more")
    engine = answer_flags.open_from(arguments)
    waiting = plan_requests(engine, asked, arguments.n, arguments.seed)
    total, journal = len(waiting), Journal(output) if output else None
    if output and arguments.resume:
        journal, waiting = resume(output, asked, waiting)
        if len(waiting) < total:
            console.say(f"{total - len(waiting)} of {total} answers are in {output} already")
    start = time.monotonic()
    try:
        tokens = _answer(arguments, engine, asked, waiting, sampling, journal)
    except KeyboardInterrupt:
        if output:
            goes_on = "the same command with --resume goes on"
            console.say(f"\nwhat is finished is in {output}; {goes_on}")
        raise
    seconds = max(time.monotonic() - start, 1e-9)
    if waiting:
        answers, rate = f"{len(waiting)} answer{'s' * (len(waiting) > 1)}", tokens / seconds
        console.say(f"{answers}, {tokens} tokens in {seconds:.1f} s: {rate:.1f} tokens/s")
    if output:
        console.next_steps(f"minialign data show {output}", f"minialign score {output}")
    return 0


def _read_prompts(arguments: argparse.Namespace) -> list[Prompted]:
    from minialign.data.prompts import as_prompts, read_prompts

    texts = [*arguments.prompts, *arguments.more]
    if not texts and not arguments.file:
        if sys.stdin.isatty():
            raise UserError("there is no prompt", 'minialign generate "Why is the sky blue?"')
        texts = ["-"]
    if texts.count("-") > 1:
        raise UserError("stdin can be read once", "give - once")
    texts = [sys.stdin.read().strip("\n") if text == "-" else text for text in texts]
    asked = as_prompts(texts, arguments.system, arguments.raw)
    if arguments.file:
        asked += read_prompts(arguments.file, arguments.system, arguments.raw, answers=False)
    return asked


def _answer(
    arguments: argparse.Namespace,
    engine: "Engine",
    asked: list[Prompted],
    waiting: "list[Request]",
    sampling: Sampling,
    journal: Journal | None,
) -> int:
    """Write the answers where they go; returns how many tokens they have."""
    from minialign.engine.open import origin_of
    from minialign.samples.generate import write_answers

    if len(waiting) == 1 and not arguments.json and journal is None:
        return _stream(engine, waiting[0], sampling)
    origin = origin_of(engine, arguments.adapter)
    answers = write_answers(engine, asked, waiting, sampling, arguments.batch_size, origin)
    order = [(request.prompt_index, request.sample_index) for request in waiting]
    ready: dict[tuple[int, int], dict[str, Any]] = {}
    tokens = 0
    with journal or nullcontext():
        for completion, row in console.progress(answers, len(waiting), "answers"):
            tokens += len(completion.ids)
            if journal:
                journal.append(row)
            if arguments.json:
                console.emit(row)
            elif not journal:  # plain answers in the order in which they were asked for
                ready[row["prompt_index"], row["sample_index"]] = row
                while order and order[0] in ready:
                    _print(ready.pop(order.pop(0)))
    return tokens


def _stream(engine: "Engine", request: "Request", sampling: Sampling) -> int:
    """One answer, printed as it is drawn."""
    count = 0
    for piece in engine.stream(request.prompt, sampling, request.seed):
        count += 1
        print(printable(piece.text), end="", flush=True)
    print(flush=True)
    return count


def _print(row: dict[str, Any]) -> None:
    prompt = row["prompt"]
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    print(f"── {row['prompt_index'] + 1}.{row['sample_index'] + 1} {answer_flags.short(text)}")
    print(printable(row["response"]).strip() + "\n", flush=True)
