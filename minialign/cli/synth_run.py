"""``minialign synth``: the model that writes, what it makes, and the counts at the end."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minialign.cli import answer_flags, console
from minialign.cli.answer_flags import sampling_from
from minialign.data.prompts import read_prompts
from minialign.engine import Engine
from minialign.errors import UserError
from minialign.judge import JudgeOptions
from minialign.judge.ask import judge_comparisons
from minialign.judge.open import open_judge
from minialign.progress import Pace, Progress
from minialign.synth import make as synth
from minialign.synth import text_model
from minialign.synth.instructions import Pool, is_showable
from minialign.synth.make import Event, Judge, file_beside
from minialign.synth.similarity import rapidfuzz
from minialign.synth.text_model import RememberingModel
from minialign.synth.texts import read_text

# (the model that writes, its engine if it is local) -> events
Make = Callable[[RememberingModel, Engine | None], Iterator[Event]]


def run(arguments: argparse.Namespace) -> int:
    """Make data, write it, and say what came out."""
    rapidfuzz()  # it is missed now, not after the first answers
    output = Path(arguments.output).expanduser()
    _check(arguments, output)
    make, settings = MAKERS[arguments.action](arguments)
    writes, engine = _open_model(arguments)
    system = getattr(arguments, "system", None)
    settings = {"system": system, "keep_cut": arguments.keep_cut, **settings}
    settings = {"command": arguments.action, **writes.identity, "seed": arguments.seed, **settings}
    journal = text_model.TextJournal(file_beside(output, "journal"), settings)
    model = RememberingModel(writes, journal, arguments.seed, arguments.batch_size)
    start = time.monotonic()
    try:
        counts = _count(synth.write_rows(make(model, engine), output), model)
    except KeyboardInterrupt:
        console.say(f"\nwhat was written is kept beside {output}; --resume goes on")
        raise
    _report(arguments, output, counts, model, time.monotonic() - start)
    return 0


def _check(arguments: argparse.Namespace, output: Path) -> None:
    for name in ("n", "limit", "count", "batch_size"):
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            flag = "-n" if name == "n" else f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value}", "1 or more")
    if arguments.url and not arguments.model:
        raise UserError("--url needs the name that the endpoint has for its model", "--model NAME")
    if arguments.url and arguments.adapter:
        raise UserError("--adapter is for a local model", "leave --url or --adapter out")
    answer_flags.file_to_write(arguments.output)
    journal = file_beside(output, "journal")
    begun = [path for path in (output, journal) if path.exists() and path.stat().st_size]
    if begun and not arguments.resume:
        fix = "go on with it: --resume; or choose another file"
        raise UserError(f"{begun[0]} is there already", fix)
    if begun == [output]:
        problem = f"{output} is there, but not its journal {journal}"
        raise UserError(problem, "choose another -o FILE")


def _named(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names}


def _read_asked(arguments: argparse.Namespace) -> list[Any]:
    return read_prompts(arguments.file, getattr(arguments, "system", None))[: arguments.limit]


def _self_instruct(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    if not 0 < arguments.similarity <= 1:
        raise UserError(f"--similarity {arguments.similarity}", "above 0, at most 1")
    if not 1 <= arguments.min_words <= arguments.max_words:
        typed = f"--min-words {arguments.min_words} --max-words {arguments.max_words}"
        raise UserError(typed, "1 or more, and no more than the most")
    seeds = _read_asked(arguments)
    avoid = read_text("avoid", arguments.avoid)
    template = read_text("instructions", arguments.template)
    known = [one.prompt[-1]["content"] for one in seeds]
    shown = sum(map(is_showable, known))
    shown_to = f"the {shown} that fit on a line are shown to the model"
    console.say(f"{len(known)} seeds; {shown_to}, all count when new ones are compared")
    settings = _named(arguments, "similarity", "min_words", "max_words")
    pool = Pool(known, avoid.lines, *settings.values())
    settings |= {"avoid": avoid.origin, "template": template.origin}
    settings["no_answers"] = arguments.no_answers
    how = {"count": arguments.count, "answered": not arguments.no_answers}
    how["keep_cut"] = arguments.keep_cut
    return lambda model, _: synth.self_instruct(model, seeds, pool, template, **how), settings


def _respond(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    asked, n, keep = _read_asked(arguments), arguments.n, arguments.keep_cut
    return lambda model, _: synth.respond(model, asked, n, keep_cut=keep), {"n": n}


def _prefer(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    asked = _read_asked(arguments)
    sampling = sampling_from(arguments)
    if sampling.greedy:
        raise UserError("two answers at temperature 0 are the same", "--temperature 0.7")
    if (arguments.url or arguments.judge_url) and not arguments.judge:
        raise UserError("an endpoint needs a judge", "--judge MODEL, with or without --judge-url")

    def make(model: RememberingModel, engine: Engine | None) -> Iterator[Event]:
        judge = _open_judge(arguments, engine)
        return synth.prefer(model, asked, judge, keep_cut=arguments.keep_cut)

    return make, _named(arguments, "judge", "judge_url", "judge_template", "debias")


def _critique(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    asked, keep = _read_asked(arguments), arguments.keep_cut
    files = _named(arguments, "constitution", "critique", "revision")
    texts = {name: read_text(name, file) for name, file in files.items()}
    settings = {name: text.origin for name, text in texts.items()}
    return lambda model, _: synth.critique(model, asked, *texts.values(), keep_cut=keep), settings


MAKERS = {
    "self-instruct": _self_instruct,
    "respond": _respond,
    "prefer": _prefer,
    "critique": _critique,
}


def _open_model(arguments: argparse.Namespace) -> tuple[text_model.TextModel, Engine | None]:
    sampling = sampling_from(arguments)
    if arguments.url:
        return text_model.endpoint_model(arguments.url, arguments.model, sampling), None
    engine = answer_flags.open_from(arguments)
    return text_model.local_model(engine, sampling, arguments.adapter), engine


def _open_judge(arguments: argparse.Namespace, engine: Engine | None) -> Judge:
    own = arguments.judge is None and engine is not None
    name = arguments.judge or (engine.model.name if engine else None)
    how = {"url": arguments.judge_url, "debias": arguments.debias}
    options = JudgeOptions(arguments.judge_template, **how)
    judge = open_judge(name, options, engine=engine if own else None)
    file = file_beside(Path(arguments.output).expanduser(), "verdicts")
    size = arguments.batch_size
    return lambda pairs: judge_comparisons(judge, pairs, file=file, batch_size=size)


@dataclass
class Counts:
    """What came out."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def _count(events: Iterator[Event], model: RememberingModel) -> Counts:
    """Count all events; how far it is becomes a line with the time that is left."""
    counts, pace = Counts(), Pace()
    with console.live_line() as line:
        for event in events:
            if isinstance(event, synth.Row):
                counts.rows += 1
            elif isinstance(event, synth.Dropped):
                counts.dropped[event.reason] += 1
                counts.examples.setdefault(event.reason, event.text)
            elif not model.fresh:
                pace = Pace(first=event.done)
            elif line.live or pace.seconds > 2:
                line.update(_describe(event, counts, pace.seconds_left(event)))
    return counts


def _describe(progress: Progress, counts: Counts, seconds_left: float | None) -> str:
    text = f"{progress}, {counts.rows} rows"
    if left_out := counts.dropped.total():
        text += f", {left_out} left out"
    return text if seconds_left is None else f"{text}, {console.duration(seconds_left)} left"


def _report(
    arguments: argparse.Namespace,
    output: Path,
    counts: Counts,
    model: RememberingModel,
    seconds: float,
) -> None:
    dropped = counts.dropped.most_common()
    written = {"texts_written": model.fresh, "tokens": model.tokens, "seconds": round(seconds, 1)}
    if arguments.json:
        made = {"output": str(output), "rows": counts.rows, "left_out": dict(dropped)}
        console.emit({**made, **written})
    elif dropped:
        short = answer_flags.short
        rows = [[count, reason, short(counts.examples[reason])] for reason, count in dropped]
        console.table(["left out", "why", "for example"], rows)
    console.say(
        f"{counts.rows} rows in {output}, {counts.dropped.total()} left out;"
        f" {model.fresh} texts ({model.tokens} tokens) written in {console.duration(seconds)}"
    )
    if not counts.rows:
        raise UserError(
            "nothing is left to train on",
            f"{file_beside(output, 'dropped')} says why; against answers that are cut off:"
            " more --max-tokens, --keep-cut, or --system 'Answer in two sentences.'",
        )
    trains = "sft" if arguments.action in ("self-instruct", "respond") else "dpo"
    use = f"minialign {trains} --data {output}"
    if getattr(arguments, "no_answers", False):
        use = f"minialign synth respond {output} -o answers.jsonl"
    console.next_steps(f"minialign data check {output}", use)
