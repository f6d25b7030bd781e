"""Data made by models: self-instruct, respond, prefer (RLAIF) and critique (constitutional AI).

Each is a generator of events: a row for the output, something left out and why, or how far it is.
Rows come in the order of the prompts, so the same inputs give the same file.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from minialign.durable import Journal, json_line, numbered_rows
from minialign.engine.next_token import sample_seed
from minialign.errors import UserError
from minialign.progress import Progress
from minialign.records import Comparison, Prompt, Prompted, Verdict, as_prompt, marked
from minialign.synth import answers, instructions
from minialign.synth.instructions import Pool
from minialign.synth.text_model import RememberingModel, TextRequest, Written
from minialign.synth.texts import Text

IDLE = 8  # rounds in a row without a new instruction, after which self-instruct gives up
ROUND = 4  # lists asked for before the new instructions are shown to the model
ANSWERED = 8  # instructions answered before the count is looked at

Judge = Callable[[Sequence[Comparison]], Iterator[Verdict]]


@dataclass(frozen=True)
class Row:
    """A row of the output."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Dropped:
    """What was made and left out."""

    reason: str
    text: str


Event = Row | Dropped | Progress
Events = Generator[Event, None, None]


@dataclass(frozen=True)
class Answer:
    """What a model wrote on request, and what is wrong with it."""

    request: TextRequest
    text: str
    finish_reason: str
    fault: str | None

    @property
    def question(self) -> str:
        """What it answers."""
        return self.request.prompt[-1]["content"]


def _chunks(
    model: RememberingModel, asked: Sequence[Prompted], n: int
) -> Iterator[tuple[int, list[TextRequest]]]:
    """(the index of the first prompt, n requests a prompt): enough to keep a batch full."""
    size = max(64, 4 * model.batch_size)
    for start in range(0, len(asked), size):
        yield (
            start,
            [
                TextRequest(one.prompt, sample_seed(model.seed, place, sample))
                for place, one in enumerate(asked[start : start + size], start)
                for sample in range(n)
            ],
        )


def _write(
    model: RememberingModel,
    requests: Sequence[TextRequest],
    at: Progress,
    keep_cut: bool,
    unit: int = 1,
) -> Generator[Progress, None, list[Answer]]:
    """The answers to requests in their order, and what is wrong with each."""
    written = yield from model.write(requests, at, unit)
    results = []
    for request, one in zip(requests, written, strict=True):
        fault = answers.find_fault(request.prompt, one.text, one.finish_reason, keep_cut)
        results.append(Answer(request, one.text.strip(), one.finish_reason, fault))
    return results


def _origin(model: RememberingModel, command: str, **more: Any) -> dict[str, Any]:
    return {"made_by": f"synth {command}", **model.model.origin, "seed": model.seed, **more}


def self_instruct(
    model: RememberingModel,
    seeds: Sequence[Prompted],
    pool: Pool,
    template: Text,
    count: int,
    *,
    answered: bool = True,
    keep_cut: bool = False,
) -> Events:
    """Make ``count`` new instructions, with answers unless ``answered`` is false.

    What is made does not depend on ``count``, so a finished file can be made longer.

    Raises:
        UserError: when no seed can be shown, or round after round brings nothing new.
    """
    shown = [text for one in seeds if instructions.is_showable(text := one.prompt[-1]["content"])]
    if not shown:
        most = instructions.SHOWN_WORDS
        said = f"none of the {len(seeds)} seeds is a single line of up to {most} words"
        raise UserError(said, "write some short tasks that need no further text, one a line")
    origin = _origin(model, "self-instruct", template=template.origin)
    made, number, idle = 0, 0, 0
    while made < count:
        requests = _list_requests(model, shown, pool.made, template, number)
        at = Progress("instructions", made, count)
        lists = yield from model.write(requests, at, unit=0)
        fresh = yield from _new_instructions(lists, pool)
        idle = 0 if fresh else idle + 1
        if idle == IDLE:
            said = f"{IDLE} rounds in a row brought nothing new; {made} of {count} rows are written"
            fix = "a higher --temperature or --similarity, more seeds, or a larger model"
            raise UserError(said, fix)
        number += 1
        if not answered:
            for text in fresh[: count - made]:
                made += 1
                yield Row({"prompt": text, "origin": origin})
            continue
        for start in range(0, len(fresh), ANSWERED):
            first = len(pool.made) - len(fresh) + start
            requests = [
                TextRequest(as_prompt(text), sample_seed(model.seed, first + place, 1))
                for place, text in enumerate(fresh[start : start + ANSWERED])
            ]
            at = Progress("answers", made, count)
            for one in (yield from _write(model, requests, at, keep_cut, unit=0)):
                if made == count:
                    return
                if one.fault:
                    yield Dropped(f"answer: {one.fault}", one.question)
                    continue
                made += 1
                row = {"prompt": one.question, "response": one.text, "origin": origin}
                yield Row(row | marked([one.finish_reason]))


def _list_requests(
    model: RememberingModel, shown: Sequence[str], made: Sequence[str], template: Text, number: int
) -> list[TextRequest]:
    """The lists that one round asks for."""
    requests = []
    for place in range(ROUND):
        examples = instructions.draw(shown, made, Random(f"{model.seed} {number} {place}"))
        content = template.fill(count=len(examples) + instructions.ASKED)
        seed = sample_seed(model.seed, number * ROUND + place, 0)
        requests.append(TextRequest(as_prompt(content), seed, instructions.opening(examples)))
    return requests


def _new_instructions(lists: Sequence[Written], pool: Pool) -> Generator[Dropped, None, list[str]]:
    """The instructions of these lists that the pool takes in; the others are dropped."""
    fresh = []
    for one in lists:
        listed, cut = instructions.parse(one.text, one.finish_reason == "length")
        if cut:
            yield Dropped(answers.CUT, cut)
        for text in listed:
            if reason := pool.add(text):
                yield Dropped(reason, text)
            else:
                fresh.append(text)
    return fresh


def respond(
    model: RememberingModel, asked: Sequence[Prompted], n: int = 1, *, keep_cut: bool = False
) -> Events:
    """Write n answers to every prompt, as demonstrations (distillation)."""
    origin = _origin(model, "respond")
    for start, requests in _chunks(model, asked, n):
        at = Progress("answers", n * start, n * len(asked))
        seen: set[str] = set()
        for index, one in enumerate((yield from _write(model, requests, at, keep_cut))):
            seen = set() if index % n == 0 else seen
            same = "the same as another answer to this prompt" if one.text in seen else None
            if reason := one.fault or same:
                yield Dropped(reason, one.question)
                continue
            seen.add(one.text)
            row = {"prompt": one.request.prompt, "response": one.text, "origin": origin}
            yield Row(row | marked([one.finish_reason]))


def prefer(
    model: RememberingModel, asked: Sequence[Prompted], judge: Judge, *, keep_cut: bool = False
) -> Events:
    """Write two answers to every prompt, and the pair in the order that a judge prefers (RLAIF; Lee
    et al. 2023, arXiv:2309.00267). A tie gives no pair."""
    total = 3 * len(asked)
    for start, requests in _chunks(model, asked, 2):
        at, pairs = Progress("answers", 3 * start, total), []
        texts = yield from _write(model, requests, at, keep_cut)
        for a, b in zip(texts[::2], texts[1::2], strict=True):
            if reason := a.fault or b.fault:
                yield Dropped(f"an answer: {reason}", a.question)
            elif answers.hardly_differ(a.text, b.text):
                yield Dropped("both answers are the same", a.question)
            else:
                ends = [{"finish_reason": one.finish_reason} for one in (a, b)]
                prompt = a.request.prompt
                pairs.append(Comparison(prompt, a.text, b.text, a_from=ends[0], b_from=ends[1]))
        done = 3 * start + 3 * len(requests) // 2 - len(pairs)
        yield Progress("verdicts", done, total)
        for place, verdict in enumerate(judge(pairs), 1):
            yield Progress("verdicts", done + place, total)
            yield _order_pair(model, verdict)


def _order_pair(model: RememberingModel, verdict: Verdict) -> Row | Dropped:
    """The pair that a verdict gives."""
    if verdict.choice not in ("a", "b"):
        said = "a tie" if verdict.choice == "tie" else "no verdict in what the judge said"
        return Dropped(said, verdict.prompt[-1]["content"])
    order = 1 if verdict.choice == "a" else -1
    texts = (verdict.a, verdict.b)[::order]
    ends = [origin.get("finish_reason") for origin in (verdict.a_from, verdict.b_from)][::order]
    origin = _origin(model, "prefer", judge=verdict.judge, judge_template=verdict.template)
    return Row(_pair(verdict.prompt, texts, ends, origin))


@dataclass(frozen=True)
class Draft:
    """An answer on its way to a revision; ``turns`` is what the model is asked next."""

    answer: Answer
    principle: str
    turns: Prompt
    critique: str = ""

    @property
    def request(self) -> TextRequest:
        """What the model is asked next."""
        return TextRequest(self.turns, self.answer.request.seed)


def critique(
    model: RememberingModel,
    asked: Sequence[Prompted],
    constitution: Text,
    ask_critique: Text,
    ask_revision: Text,
    *,
    keep_cut: bool = False,
) -> Events:
    """Write an answer, its critique by a principle and a revision; the revision is the chosen one
    (constitutional AI; Bai et al. 2022, arXiv:2212.08073, section 3.1)."""
    total = 3 * len(asked)
    files = [one.origin for one in (constitution, ask_critique, ask_revision)]
    template = "built-in" if all(one.startswith("built-in") for one in files) else "; ".join(files)
    for start, requests in _chunks(model, asked, 1):
        end = 3 * (start + len(requests))
        drafts: list[Draft] = []
        written = yield from _write(
            model, requests, Progress("answers", 3 * start, total), keep_cut
        )
        for place, one in enumerate(written, start):
            if one.fault:
                yield Dropped(f"answer: {one.fault}", one.question)
                continue
            principle = Random(f"{model.seed} {place}").choice(constitution.lines)
            question = ask_critique.fill(principle=principle)
            drafts.append(Draft(one, principle, _go_on(one.request.prompt, one.text, question)))
        at = Progress("critiques", end - 2 * len(drafts), total)
        written = yield from _write(model, [draft.request for draft in drafts], at, True)
        criticised: list[Draft] = []
        for draft, one in zip(drafts, written, strict=True):
            if one.fault:
                yield Dropped(f"critique: {one.fault}", draft.answer.question)
                continue
            question = ask_revision.fill(principle=draft.principle, critique=one.text)
            turns = _go_on(draft.turns, one.text, question)
            criticised.append(replace(draft, turns=turns, critique=one.text))
        at = Progress("revisions", end - len(criticised), total)
        texts = yield from model.write([draft.request for draft in criticised], at)
        for draft, last in zip(criticised, texts, strict=True):
            text, reason = _check_revision(draft, last, keep_cut)
            if reason:
                yield Dropped(reason, draft.answer.question)
                continue
            how = {"principle": draft.principle, "critique": draft.critique, "template": template}
            origin = _origin(model, "critique", **how)
            ends = [last.finish_reason, draft.answer.finish_reason]
            prompt = draft.answer.request.prompt
            yield Row(_pair(prompt, (text, draft.answer.text), ends, origin))


def _go_on(turns: Prompt, answer: str, question: str) -> Prompt:
    said = {"role": "assistant", "content": answer}
    return [*turns, said, {"role": "user", "content": question}]


def _check_revision(draft: Draft, written: Written, keep_cut: bool) -> tuple[str, str | None]:
    """(the text of a revision, what is wrong with it)."""
    prompt, text = draft.answer.request.prompt, answers.strip_preface(written.text)
    if reason := answers.find_fault(prompt, text, written.finish_reason, keep_cut):
        return text, f"revision: {reason}"
    if answers.hardly_differ(text, draft.answer.text):
        return text, "the revision changes nothing"
    if answers.hardly_differ(text, draft.critique, 0.7):
        return text, "the revision is the critique"
    return text, None


def _pair(
    prompt: Prompt, texts: Sequence[str], ends: Sequence[str | None], origin: dict[str, Any]
) -> dict[str, Any]:
    """The row of (chosen, rejected)."""
    row = {"prompt": prompt, "chosen": texts[0], "rejected": texts[1], "origin": origin}
    return row | marked(ends)


def file_beside(output: Path, what: str) -> Path:
    """A file that belongs to an output: "pairs.jsonl" has a "pairs.journal.jsonl"."""
    return output.with_name(f"{output.stem}.{what}.jsonl")


def write_rows(events: Iterator[Event], output: Path) -> Iterator[Event]:
    """Pass events on, with every row appended to ``output`` as it comes, and what was left out in a
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
        file_beside(output, "dropped").write_bytes(b"")
        place = 0
        with Journal(file_beside(output, "dropped")) as dropped:
            for event in events:
                if isinstance(event, Row):
                    if place >= len(before):
                        journal.append(event.values)
                    elif before[place] != json.loads(json_line(event.values)):
                        said = f"{output}:{place + 1}: not the row that these inputs give"
                        fix = "go on with the same prompts, or choose another -o FILE"
                        raise UserError(said, fix)
                    place += 1
                elif isinstance(event, Dropped):
                    dropped.append({"reason": event.reason, "text": event.text})
                yield event
