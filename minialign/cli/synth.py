"""``minialign synth``: training data made by a model."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.cli import console
from minialign.cli.answer_flags import (
    batch_arguments,
    check_place,
    model_arguments,
    open_from,
    sampling_arguments,
    sampling_from,
    short,
)
from minialign.errors import UserError
from minialign.progress import Pace, Progress

if TYPE_CHECKING:
    from minialign.engine import Engine
    from minialign.synth.make import Event, Judge
    from minialign.synth.text_model import RememberingModel, TextModel

# (the model that writes, its engine if it is local) -> events
Make = Callable[["RememberingModel", "Engine | None"], "Iterator[Event]"]

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
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    texts = "new instructions from seed tasks, and answers to them"
    _instruction_flags(_action(actions, "self-instruct", "SEEDS", texts))
    texts = "answers to prompts, to train on (distillation)"
    respond = _prompts_action(actions, "respond", texts)
    respond.add_argument("-n", type=int, default=1, metavar="N", help="answers a prompt (1)")
    texts = "two answers to each prompt, ordered by a judge (RLAIF)"
    _judge_flags(_prompts_action(actions, "prefer", texts))
    texts = "an answer and its revision by a principle (constitutional AI)"
    critique = _prompts_action(actions, "critique", texts)
    critique.add_argument("--constitution", metavar="FILE", help="principles, one a line")
    critique.add_argument("--critique", metavar="FILE", help="how a critique is asked for")
    critique.add_argument("--revision", metavar="FILE", help="how the new answer is asked for")
    shown = actions.add_parser("texts", help="print the built-in texts", allow_abbrev=False)
    shown.add_argument("name", nargs="?", metavar="NAME", help="the one to print (list them)")


def _action(actions: Any, name: str, file: str, text: str) -> argparse.ArgumentParser:
    """An action that makes data, with the flags of all of them."""
    sub: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=text[0].upper() + text[1:], allow_abbrev=False
    )
    sub.add_argument("file", metavar=file, help="lines of a .txt, or rows with prompts (JSONL…)")
    sub.add_argument("-o", "--output", metavar="FILE", required=True, help="the rows (.jsonl)")
    sub.add_argument("--resume", action="store_true", help="go on with FILE, or make it longer")
    sub.add_argument("--json", action="store_true", help="the counts as JSON on stdout")
    sub.add_argument("--limit", type=int, metavar="N", help=f"only the first N {file.lower()}")
    model_arguments(sub)
    text = "let --model of this OpenAI-compatible endpoint write (http://…/v1)"
    sub.add_argument("--url", help=text)
    sampling_arguments(sub)
    batch_arguments(sub, "the same seed, the same data (0)", "texts written at once (16)")
    text = "keep answers cut off at --max-tokens; they are trained without an end"
    sub.add_argument("--keep-cut", action="store_true", help=text)
    return sub


def _prompts_action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    sub = _action(actions, name, "PROMPTS", text)
    sub.add_argument("--system", metavar="TEXT", help="a system prompt")
    return sub


def _instruction_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--count", type=int, default=100, metavar="N", help="rows to make (100)")
    sub.add_argument("--no-answers", action="store_true", help="instructions alone")
    text = "leave out what has this ROUGE-L or more with a known one (0.7)"
    sub.add_argument("--similarity", type=float, default=0.7, metavar="X", help=text)
    sub.add_argument("--min-words", type=int, default=4, metavar="N", help="of an instruction (4)")
    sub.add_argument("--max-words", type=int, default=150, metavar="N", help="the same (150)")
    sub.add_argument("--avoid", metavar="FILE", help="words to avoid, one a line")
    sub.add_argument("--template", metavar="FILE", help="how new instructions are asked for")


def _judge_flags(sub: argparse.ArgumentParser) -> None:
    text = "a model, a run, reward:RUN (the one that writes)"
    sub.add_argument("--judge", metavar="JUDGE", help=text)
    sub.add_argument("--judge-url", metavar="URL", help="the endpoint that has --judge")
    sub.add_argument("--judge-template", metavar="NAME", help="how the judge is asked")
    text = "average the judge's two orders, instead of a tie where they differ"
    sub.add_argument("--debias", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Make data, or print a text."""
    if arguments.action == "texts":
        return _texts(arguments.name)
    from minialign.synth.make import file_beside, write_rows
    from minialign.synth.similarity import rapidfuzz
    from minialign.synth.text_model import RememberingModel, TextJournal

    rapidfuzz()  # it is missed now, not after the first answers
    output = Path(arguments.output).expanduser()
    _check(arguments, output, file_beside(output, "journal"))
    make, settings = MAKERS[arguments.action](arguments)
    writes, engine = _open_model(arguments)
    system = getattr(arguments, "system", None)
    settings = {"system": system, "keep_cut": arguments.keep_cut, **settings}
    settings = {"command": arguments.action, **writes.identity, "seed": arguments.seed, **settings}
    journal = TextJournal(file_beside(output, "journal"), settings)
    model = RememberingModel(writes, journal, arguments.seed, arguments.batch_size)
    start = time.monotonic()
    try:
        counts = _count(write_rows(make(model, engine), output), model)
    except KeyboardInterrupt:
        console.say(f"\nwhat was written is kept beside {output}; --resume goes on")
        raise
    _report(arguments, output, counts, model, time.monotonic() - start)
    return 0


def _texts(name: str | None) -> int:
    from minialign.synth.texts import TEXTS, read_text

    if name:
        print(read_text(name).content, end="")
        return 0
    console.table(["text", "what it does"], [[key, text] for key, (text, _) in TEXTS.items()])
    console.next_steps("minialign synth texts constitution > mine.txt")
    return 0


def _check(arguments: argparse.Namespace, output: Path, journal: Path) -> None:
    for name in ("n", "limit", "count", "batch_size"):
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            flag = "-n" if name == "n" else f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value}", "1 or more")
    if arguments.url and not arguments.model:
        raise UserError("--url needs the name that the endpoint has for its model", "--model NAME")
    if arguments.url and arguments.adapter:
        raise UserError("--adapter is for a local model", "leave --url or --adapter out")
    check_place(output)
    begun = [path for path in (output, journal) if path.exists() and path.stat().st_size]
    if begun and not arguments.resume:
        raise UserError(
            f"{begun[0]} is there already", "go on with it: --resume; or choose another file"
        )
    if begun == [output]:
        raise UserError(
            f"{output} is there, but not its journal {journal}", "choose another -o FILE"
        )


def _read_asked(arguments: argparse.Namespace) -> list[Any]:
    from minialign.data.prompts import read_prompts

    asked = read_prompts(arguments.file, getattr(arguments, "system", None))
    return asked[: arguments.limit]


def _self_instruct(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    from minialign.synth import make as synth
    from minialign.synth.instructions import Pool, is_showable
    from minialign.synth.texts import read_text

    if not 0 < arguments.similarity <= 1:
        raise UserError(f"--similarity {arguments.similarity}", "above 0, at most 1")
    if not 1 <= arguments.min_words <= arguments.max_words:
        raise UserError(
            f"--min-words {arguments.min_words} --max-words {arguments.max_words}",
            "1 or more, and no more than the most",
        )
    seeds = _read_asked(arguments)
    avoid = read_text("avoid", arguments.avoid)
    template = read_text("instructions", arguments.template)
    known = [one.prompt[-1]["content"] for one in seeds]
    shown = sum(map(is_showable, known))
    console.say(
        f"{len(known)} seeds; the {shown} that fit on a line are shown to the model, all count when"
        " new ones are compared"
    )
    words = arguments.min_words, arguments.max_words
    pool = Pool(known, avoid.lines, arguments.similarity, *words)
    names = ("similarity", "min_words", "max_words")
    settings = {name: getattr(arguments, name) for name in names}
    settings |= {"avoid": avoid.origin, "template": template.origin}
    settings["no_answers"] = arguments.no_answers
    how = {"count": arguments.count, "answered": not arguments.no_answers}
    how["keep_cut"] = arguments.keep_cut
    return lambda model, _: synth.self_instruct(model, seeds, pool, template, **how), settings


def _respond(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    from minialign.synth import make as synth

    asked, n, keep = _read_asked(arguments), arguments.n, arguments.keep_cut
    return lambda model, _: synth.respond(model, asked, n, keep_cut=keep), {"n": n}


def _prefer(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    from minialign.synth import make as synth

    asked = _read_asked(arguments)
    sampling = sampling_from(arguments)
    if sampling.greedy:
        raise UserError("two answers at temperature 0 are the same", "--temperature 0.7")
    if (arguments.url or arguments.judge_url) and not arguments.judge:
        raise UserError("an endpoint needs a judge", "--judge MODEL, with or without --judge-url")

    def make(model: "RememberingModel", engine: "Engine | None") -> "Iterator[Event]":
        judge = _open_judge(arguments, engine)
        return synth.prefer(model, asked, judge, keep_cut=arguments.keep_cut)

    names = ("judge", "judge_url", "judge_template", "debias")
    return make, {name: getattr(arguments, name) for name in names}


def _critique(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    from minialign.synth import make as synth
    from minialign.synth.texts import read_text

    asked, keep = _read_asked(arguments), arguments.keep_cut
    names = ("constitution", "critique", "revision")
    texts = [read_text(name, getattr(arguments, name)) for name in names]
    settings = {name: text.origin for name, text in zip(names, texts, strict=True)}
    return lambda model, _: synth.critique(model, asked, *texts, keep_cut=keep), settings


MAKERS = {
    "self-instruct": _self_instruct,
    "respond": _respond,
    "prefer": _prefer,
    "critique": _critique,
}


def _open_model(arguments: argparse.Namespace) -> "tuple[TextModel, Engine | None]":
    from minialign.synth.text_model import endpoint_model, local_model

    sampling = sampling_from(arguments)
    if arguments.url:
        return endpoint_model(arguments.url, arguments.model, sampling), None
    engine = open_from(arguments)
    return local_model(engine, sampling, arguments.adapter), engine


def _open_judge(arguments: argparse.Namespace, engine: "Engine | None") -> "Judge":
    from minialign.judge import JudgeOptions
    from minialign.judge.ask import judge_comparisons
    from minialign.judge.open import open_judge
    from minialign.synth.make import file_beside

    own = arguments.judge is None and engine is not None
    name = arguments.judge or (engine.model.name if engine else None)
    options = JudgeOptions(
        arguments.judge_template, url=arguments.judge_url, debias=arguments.debias
    )
    judge = open_judge(name, options, engine=engine if own else None)
    file = file_beside(Path(arguments.output).expanduser(), "verdicts")
    size = arguments.batch_size
    return lambda pairs: judge_comparisons(judge, pairs, file=file, batch_size=size)


@dataclass
class Counts:
    """What came out."""

    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)


def _count(events: "Iterator[Event]", model: "RememberingModel") -> Counts:
    """Count all events; how far it is becomes a line with the time that is left."""
    from minialign.synth.make import Dropped, Row

    counts, line, pace = Counts(), console.Line(), Pace()
    try:
        for event in events:
            if isinstance(event, Row):
                counts.rows += 1
            elif isinstance(event, Dropped):
                counts.dropped[event.reason] = counts.dropped.get(event.reason, 0) + 1
                counts.examples.setdefault(event.reason, event.text)
            elif not model.fresh:
                pace = Pace(first=event.done)
            elif line.live or pace.seconds > 2:
                line.update(_describe(event, counts, pace.seconds_left(event)))
    finally:
        line.clear()
    return counts


def _describe(progress: Progress, counts: Counts, seconds_left: float | None) -> str:
    text = f"{progress}, {counts.rows} rows"
    if left_out := sum(counts.dropped.values()):
        text += f", {left_out} left out"
    return text if seconds_left is None else f"{text}, {console.duration(seconds_left)} left"


def _report(
    arguments: argparse.Namespace,
    output: Path,
    counts: Counts,
    model: "RememberingModel",
    seconds: float,
) -> None:
    from minialign.synth.make import file_beside

    dropped = sorted(counts.dropped.items(), key=lambda one: -one[1])
    written = {"texts_written": model.fresh, "tokens": model.tokens, "seconds": round(seconds, 1)}
    if arguments.json:
        made = {"output": str(output), "rows": counts.rows, "left_out": dict(dropped)}
        console.emit({**made, **written})
    elif dropped:
        console.table(
            ["left out", "why", "for example"],
            [[count, reason, short(counts.examples[reason])] for reason, count in dropped],
        )
    console.say(
        f"{counts.rows} rows in {output}, {sum(counts.dropped.values())} left out;"
        f" {model.fresh} texts ({model.tokens} tokens) written in {console.duration(seconds)}"
    )
    if not counts.rows:
        raise UserError(
            "nothing is left to train on",
            f"{file_beside(output, 'dropped')} says why; against answers that are cut off:"
            " more --max-tokens, --keep-cut, or --system 'Answer in two sentences.'",
        )
    trains = "sft" if arguments.action in ("self-instruct", "respond") else "dpo"
    steps = [f"minialign data check {output}"]
    if not getattr(arguments, "no_answers", False):
        steps.append(f"minialign {trains} --data {output}")
    else:
        steps.append(f"minialign synth respond {output} -o answers.jsonl")
    console.next_steps(*steps)
