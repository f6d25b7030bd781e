"""One kind of record from another: pairs from rankings, demonstrations from pairs…"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from minialign.formats.preferences import pairs_of
from minialign.records import (
    Demonstration,
    Message,
    Pair,
    Prompt,
    Prompted,
    Ranking,
    Rated,
    Record,
    reasons_of,
    to_json,
)

Kind = TypeVar("Kind", Demonstration, Pair, Ranking, Rated, Prompted)

# the words of ``convert --to``
KINDS: dict[str, type] = {
    "messages": Demonstration,
    "pairs": Pair,
    "ratings": Rated,
    "rankings": Ranking,
    "prompts": Prompted,
}


def kind_name(record: Record) -> str:
    """The word for a record's kind, as ``convert --to`` has it."""
    return next(name for name, kind in KINDS.items() if isinstance(record, kind))


def prompt_of(record: Record) -> Prompt:
    """What comes before the (last) answer; [] for plain text."""
    if not isinstance(record, Demonstration):
        return record.prompt
    return record.messages[:-1]


def answers_of(record: Record) -> list[str]:
    """The answers in a record, the best first where one is better; [] for a prompt alone."""
    match record:
        case Demonstration():
            return [record.messages[-1]["content"]]
        case Pair():
            return [record.chosen, record.rejected]
        case Ranking():
            order = sorted(range(len(record.scores)), key=lambda i: -record.scores[i])
            return [record.responses[i] for i in order]
        case Rated():
            return [record.response]
    return []


def opening_of(record: Record) -> list[Message]:
    """The turns before the assistant first speaks; all of a plain text."""
    turns = record.messages if isinstance(record, Demonstration) else record.prompt
    if turns and turns[0]["role"] == "text":
        return turns
    end = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    return turns[:end] or turns[:1]


def digest(value: Any) -> bytes:
    """16 bytes that stand for a JSON value; texts count without the white space around them."""
    if isinstance(value, list):
        value = [{**turn, "content": turn["content"].strip()} for turn in value]
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def fingerprint(record: Record) -> bytes:
    """16 bytes that are equal for equal records, wherever they were read."""
    return digest({"kind": kind_name(record), **to_json(record)})


def _demonstrations(record: Record) -> list[Demonstration]:
    match record:
        case Demonstration():
            return [record]
        case Rated() if not record.good:
            return []
        case Pair() | Ranking() | Rated():
            best = {"role": "assistant", "content": answers_of(record)[0]}
            place = record.scores.index(max(record.scores)) if isinstance(record, Ranking) else 0
            reasons = reasons_of(record, place)
            return [Demonstration([*record.prompt, best], record.source, reasons)]
    return []


def _pairs(record: Record) -> list[Pair]:
    match record:
        case Pair():
            return [record]
        case Ranking():
            return pairs_of(record)
    return []


def _ratings(record: Record) -> list[Rated]:
    match record:
        case Rated():
            return [record]
        case Pair():
            return [
                Rated(record.prompt, record.chosen, True, record.source, reasons_of(record, 0)),
                Rated(record.prompt, record.rejected, False, record.source, reasons_of(record, 1)),
            ]
    return []


def _rankings(record: Record) -> list[Ranking]:
    match record:
        case Ranking():
            return [record]
        case Pair():
            answers = [record.chosen, record.rejected]
            reasons = record.finish_reasons
            return [Ranking(record.prompt, answers, [1.0, 0.0], record.source, reasons)]
    return []


def _prompts(record: Record) -> list[Prompted]:
    if isinstance(record, Prompted):
        return [record]
    prompt = prompt_of(record)
    return [Prompted(prompt, record.source)] if prompt and prompt[-1]["role"] == "user" else []


_MAKERS: dict[type, Callable[[Record], list[Any]]] = {
    Demonstration: _demonstrations,
    Pair: _pairs,
    Rated: _ratings,
    Ranking: _rankings,
    Prompted: _prompts,
}


def made(record: Record, kind: type[Kind]) -> list[Kind]:
    """The records of ``kind`` that one record gives; [] when it gives none."""
    return cast(list[Kind], _MAKERS[kind](record))


def as_kind(records: Iterable[Record], kind: type[Kind]) -> tuple[list[Kind], int]:
    """(records of ``kind``, how many of ``records`` gave none).

    A ranking gives every pair of answers with different scores; a pair gives its chosen answer as a
    demonstration, two ratings, or a ranking of two; a demonstration needs a good answer; any record
    gives its prompt.
    """
    result: list[Kind] = []
    unused = 0
    for record in records:
        found = made(record, kind)
        unused += not found
        result += found
    return result, unused


def written(record: Record) -> dict[str, Any]:
    """The row that a record is written as; reading it gives the record back."""
    if isinstance(record, Demonstration) and record.messages[0]["role"] == "text":
        return {"text": record.messages[0]["content"]}
    return to_json(record)
