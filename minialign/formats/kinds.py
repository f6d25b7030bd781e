"""One kind of record from another: pairs from rankings, demonstrations from pairs…"""

import hashlib
import json
from collections.abc import Iterable
from itertools import combinations
from typing import Any, TypeVar

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
            return [record.responses[place] for place in _best_first(record)]
        case Rated():
            return [record.response]
    return []


def _best_first(ranking: Ranking) -> list[int]:
    return sorted(range(len(ranking.scores)), key=lambda place: -ranking.scores[place])


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


def pairs_of(ranking: Ranking) -> list[Pair]:
    """Every two answers of a ranking whose scores differ, the better one chosen."""
    texts, scores = ranking.responses, ranking.scores
    return [
        Pair(ranking.prompt, texts[i], texts[j], None, ranking.source, reasons_of(ranking, i, j))
        for i, j in combinations(_best_first(ranking), 2)
        if scores[i] > scores[j]
    ]


def turn_into(record: Record, kind: type[Kind]) -> list[Kind]:
    """The records of ``kind`` that one record gives; [] when it gives none."""
    if isinstance(record, kind):
        return [record]
    made: list[Any] = []
    if kind is Prompted:
        prompt = prompt_of(record)
        made = [Prompted(prompt, record.source)] if prompt and prompt[-1]["role"] == "user" else []
    elif kind is Demonstration and isinstance(record, Pair | Ranking | Rated):
        if isinstance(record, Rated) and not record.good:
            return []
        best = {"role": "assistant", "content": answers_of(record)[0]}
        place = _best_first(record)[0] if isinstance(record, Ranking) else 0
        made = [Demonstration([*prompt_of(record), best], record.source, reasons_of(record, place))]
    elif kind is Pair and isinstance(record, Ranking):
        made = pairs_of(record)
    elif kind is Ranking and isinstance(record, Pair):
        reasons = record.finish_reasons
        made = [Ranking(record.prompt, answers_of(record), [1.0, 0.0], record.source, reasons)]
    elif kind is Rated and isinstance(record, Pair):
        made = [
            Rated(record.prompt, answer, place == 0, record.source, reasons_of(record, place))
            for place, answer in enumerate(answers_of(record))
        ]
    return made


def as_kind(records: Iterable[Record], kind: type[Kind]) -> tuple[list[Kind], int]:
    """(records of ``kind``, how many of ``records`` gave none).

    A ranking gives every pair of answers with different scores; a pair gives its chosen answer as a
    demonstration, two ratings, or a ranking of two; a demonstration needs a good answer; any record
    gives its prompt.
    """
    result: list[Kind] = []
    unused = 0
    for record in records:
        converted = turn_into(record, kind)
        unused += not converted
        result += converted
    return result, unused


def row_of(record: Record) -> dict[str, Any]:
    """The row that a record is written as; reading it gives the record back."""
    if isinstance(record, Demonstration) and record.messages[0]["role"] == "text":
        return {"text": record.messages[0]["content"]}
    return to_json(record)
