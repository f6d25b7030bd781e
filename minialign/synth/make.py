"""Data made by models: self-instruct, respond, prefer (RLAIF) and critique (constitutional AI).

Each is a generator of events: a row for the output, something left out and why, or a step of the
way. Rows come in the order of the prompts, so the same inputs give the same file.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from minialign.data.prompts import Question
from minialign.durable import Journal, json_line, numbered_rows
from minialign.engine.next_token import sample_seed
from minialign.errors import UserError
from minialign.judge.ask import Duel
from minialign.records import Prompt, Verdict, as_prompt, marked
from minialign.synth import answers, instructions
from minialign.synth.instructions import Pool
from minialign.synth.texts import Text
from minialign.synth.writers import Ask, Desk, Step, Written

IDLE = 8  # rounds in a row without a new instruction, after which self-instruct gives up
ROUND = 4  # lists asked for before the new instructions are shown to the model
ANSWERED = 8  # instructions answered before the count is looked at

Judge = Callable[[Sequence[Duel]], Iterator[Verdict]]


@dataclass(frozen=True)
class Row:
    """A row of the output."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Dropped:
    """What was made and left out."""

    reason: str
    text: str


Event = Row | Dropped | Step
Events = Generator[Event, None, None]


def _prompt(question: Question) -> Prompt:
    return as_prompt(question.prompt)


def _chunks(desk: Desk, asked: Sequence[Question]) -> Iterator[tuple[int, Sequence[Question]]]:
    """(the index of the first, questions): enough at once to keep a batch full."""
    size = max(64, 4 * desk.batch_size)
    for start in range(0, len(asked), size):
        yield start, asked[start : start + size]


def _origin(desk: Desk, command: str, **more: Any) -> dict[str, Any]:
    return {"made_by": f"synth {command}", **desk.writer.origin, "seed": desk.seed, **more}


def self_instruct(
    desk: Desk,
    seeds: Sequence[Question],
    pool: Pool,
    template: Text,
    count: int,
    *,
    answered: bool = True,
    keep_cut: bool = False,
) -> Events:
    """``count`` new instructions, with answers unless ``answered`` is false.

    What is made does not depend on ``count``, so a finished file can be made longer.

    Raises:
        UserError: when no seed can be shown, or round after round brings nothing new.
    """
    shown = [text for one in seeds if instructions.showable(text := _prompt(one)[-1]["content"])]
    if not shown:
        raise UserError(
            f"none of the {len(seeds)} seeds is a single line of up to"
            f" {instructions.SHOWN_WORDS} words",
            "write some short tasks that need no further text, one a line",
        )
    origin = _origin(desk, "self-instruct", template=template.origin)
    made, number, idle = 0, 0, 0
    while made < count:
        asks = []
        for place in range(ROUND):
            examples = instructions.draw(shown, pool.made, Random(f"{desk.seed} {number} {place}"))
            content = template.filled(count=len(examples) + instructions.ASKED)
            opening = instructions.opening(examples)
            drawn = sample_seed(desk.seed, number * ROUND + place, 0)
            asks.append(Ask(as_prompt(content), drawn, opening))
        lists = yield from desk.write(asks, "instructions", made, count, unit=0)
        fresh = []
        for one in lists:
            found, cut = instructions.parse(one.text, one.finish_reason == "length")
            if cut:
                yield Dropped(answers.CUT, cut)
            for text in found:
                if reason := pool.add(text):
                    yield Dropped(reason, text)
                else:
                    fresh.append(text)
        idle = 0 if fresh else idle + 1
        if idle == IDLE:
            raise UserError(
                f"{IDLE} rounds in a row brought nothing new; {made} of {count} rows are written",
                "a higher --temperature or --similarity, more seeds, or a larger model",
            )
        number += 1
        if not answered:
            for text in fresh[: count - made]:
                made += 1
                yield Row({"prompt": text, "origin": origin})
            continue
        for start in range(0, len(fresh), ANSWERED):
            part = [as_prompt(text) for text in fresh[start : start + ANSWERED]]
            first = len(pool.made) - len(fresh) + start
            asks = [
                Ask(prompt, sample_seed(desk.seed, first + place, 1))
                for place, prompt in enumerate(part)
            ]
            texts = yield from desk.write(asks, "answers", made, count, unit=0)
            for prompt, one in zip(part, texts, strict=True):
                if made == count:
                    return
                if reason := answers.fault(prompt, one.text, one.finish_reason, keep_cut):
                    yield Dropped(f"answer: {reason}", prompt[-1]["content"])
                    continue
                made += 1
                asked, end = prompt[-1]["content"], marked([one.finish_reason])
                yield Row({"prompt": asked, "response": one.text.strip(), "origin": origin, **end})


def respond(desk: Desk, asked: Sequence[Question], n: int = 1, *, keep_cut: bool = False) -> Events:
    """n answers to every prompt, as demonstrations (distillation)."""
    origin = _origin(desk, "respond")
    for start, part in _chunks(desk, asked):
        asks = _asks(desk, start, part, n)
        texts = yield from desk.write(asks, "answers", n * start, n * len(asked))
        seen: set[str] = set()
        for index, (ask, one) in enumerate(zip(asks, texts, strict=True)):
            seen = set() if index % n == 0 else seen
            text, reason = _checked(ask, one, keep_cut)
            if reason is None and text in seen:
                reason = "the same as another answer to this prompt"
            if reason:
                yield Dropped(reason, _last(ask))
                continue
            seen.add(text)
            end = marked([one.finish_reason])
            yield Row({"prompt": ask.prompt, "response": text, "origin": origin, **end})


def prefer(
    desk: Desk,
    asked: Sequence[Question],
    judge: Judge,
    *,
    keep_cut: bool = False,
) -> Events:
    """Two answers to every prompt, and the pair in the order that a judge prefers (RLAIF; Lee et
    al. 2023, arXiv:2309.00267). A tie gives no pair."""
    total = 3 * len(asked)
    for start, part in _chunks(desk, asked):
        asks = _asks(desk, start, part, 2)
        texts = yield from desk.write(asks, "answers", 3 * start, total)
        duels = []
        for ask, one, other in zip(asks[::2], texts[::2], texts[1::2], strict=True):
            (a, bad), (b, worse) = _checked(ask, one, keep_cut), _checked(ask, other, keep_cut)
            if reason := bad or worse:
                yield Dropped(f"an answer: {reason}", _last(ask))
            elif answers.same(a, b):
                yield Dropped("both answers are the same", _last(ask))
            else:
                origins = [{"finish_reason": each.finish_reason} for each in (one, other)]
                duels.append(Duel(ask.prompt, a, b, a_from=origins[0], b_from=origins[1]))
        done = 3 * start + 2 * len(part) + len(part) - len(duels)
        yield Step("verdicts", done, total, desk.fresh)
        for place, verdict in enumerate(judge(duels), 1):
            yield Step("verdicts", done + place, total, desk.fresh)
            if verdict.choice not in ("a", "b"):
                said = "a tie" if verdict.choice == "tie" else "no verdict in what the judge said"
                yield Dropped(said, verdict.prompt[-1]["content"])
                continue
            order = 1 if verdict.choice == "a" else -1
            best, worst = (verdict.a, verdict.b)[::order]
            ends = [origin.get("finish_reason") for origin in (verdict.a_from, verdict.b_from)]
            origin = _origin(desk, "prefer", judge=verdict.judge, judge_template=verdict.template)
            yield Row(_pair(verdict.prompt, best, worst, ends[::order], origin))


def critique(
    desk: Desk,
    asked: Sequence[Question],
    constitution: Text,
    ask_critique: Text,
    ask_revision: Text,
    *,
    keep_cut: bool = False,
) -> Events:
    """An answer, its critique by a principle and a revision; the revision is the chosen one
    (constitutional AI; Bai et al. 2022, arXiv:2212.08073, section 3.1)."""
    total = 3 * len(asked)
    principles = constitution.lines
    files = [one.origin for one in (constitution, ask_critique, ask_revision)]
    template = "built-in" if all(one.startswith("built-in") for one in files) else "; ".join(files)
    for start, part in _chunks(desk, asked):
        asks = _asks(desk, start, part, 1)
        texts = yield from desk.write(asks, "answers", 3 * start, total)
        done = 3 * start + len(part)
        kept: list[tuple[Ask, str, str, str, list[dict[str, str]]]] = []
        for place, (ask, one) in enumerate(zip(asks, texts, strict=True), start):
            answer, reason = _checked(ask, one, keep_cut)
            if reason:
                done += 2
                yield Dropped(f"answer: {reason}", _last(ask))
                continue
            principle = Random(f"{desk.seed} {place}").choice(principles)
            turns = [*ask.prompt, {"role": "assistant", "content": answer}]
            turns.append({"role": "user", "content": ask_critique.filled(principle=principle)})
            kept.append((ask, answer, one.finish_reason, principle, turns))
        then = [Ask(turns, ask.seed) for ask, *_, turns in kept]
        critiques = yield from desk.write(then, "critiques", done, total)
        done += len(kept)
        revised = []
        for (ask, answer, end, principle, turns), one in zip(kept, critiques, strict=True):
            if reason := answers.fault(turns, one.text, one.finish_reason, keep_cut=True):
                done += 1
                yield Dropped(f"critique: {reason}", _last(ask))
                continue
            content = ask_revision.filled(principle=principle, critique=one.text.strip())
            turns = [*turns, {"role": "assistant", "content": one.text.strip()}]
            turns.append({"role": "user", "content": content})
            revised.append((ask, answer, end, principle, turns, one.text.strip()))
        last = [Ask(turns, ask.seed) for ask, *_, turns, _ in revised]
        revisions = yield from desk.write(last, "revisions", done, total)
        for (ask, answer, end, principle, _, said), one in zip(revised, revisions, strict=True):
            text = answers.without_preface(one.text)
            reason = answers.fault(ask.prompt, text, one.finish_reason, keep_cut)
            if reason:
                reason = f"revision: {reason}"
            elif answers.same(text, answer):
                reason = "the revision changes nothing"
            elif answers.same(text, said, 0.7):
                reason = "the revision is the critique"
            if reason:
                yield Dropped(reason, _last(ask))
                continue
            origin = _origin(
                desk, "critique", principle=principle, critique=said, template=template
            )
            yield Row(_pair(ask.prompt, text, answer, [one.finish_reason, end], origin))


def _asks(desk: Desk, start: int, part: Sequence[Question], n: int) -> list[Ask]:
    return [
        Ask(_prompt(question), sample_seed(desk.seed, start + place, sample))
        for place, question in enumerate(part)
        for sample in range(n)
    ]


def _checked(ask: Ask, one: Written, keep_cut: bool) -> tuple[str, str | None]:
    return one.text.strip(), answers.fault(ask.prompt, one.text, one.finish_reason, keep_cut)


def _last(ask: Ask) -> str:
    return ask.prompt[-1]["content"]


def _pair(
    prompt: Prompt, chosen: str, rejected: str, ends: Sequence[str | None], origin: dict[str, Any]
) -> dict[str, Any]:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "origin": origin}
    return row | marked(ends)


def beside(output: Path, what: str) -> Path:
    """A file that belongs to an output: "pairs.jsonl" has a "pairs.journal.jsonl"."""
    return output.with_name(f"{output.stem}.{what}.jsonl")


def kept(events: Iterator[Event], output: Path) -> Iterator[Event]:
    """The events, with every row appended to ``output`` as it comes, and what was left out in a
    file beside it. Rows that the file begins with already are compared, not written again.

    Raises:
        UserError: when the file has another row than the one that comes out.
    """
    with Journal(output) as journal:
        if not journal.claim():
            hint = "wait for it, or choose another -o FILE"
            raise UserError(f"{output}: another process is writing it", hint)
        Journal.resume(output)
        before = [row for _, row in numbered_rows(output)]
        beside(output, "dropped").write_bytes(b"")
        place = 0
        with Journal(beside(output, "dropped")) as dropped:
            for event in events:
                if isinstance(event, Row):
                    if place >= len(before):
                        journal.append(event.values)
                    elif before[place] != json.loads(json_line(event.values)):
                        raise UserError(
                            f"{output}:{place + 1}: not the row that these inputs give",
                            "go on with the same prompts, or choose another -o FILE",
                        )
                    place += 1
                elif isinstance(event, Dropped):
                    dropped.append({"reason": event.reason, "text": event.text})
                yield event
