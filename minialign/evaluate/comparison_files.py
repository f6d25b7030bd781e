"""Comparisons to be judged, from files: pairs, rows with prompt, a and b, or one file of answers
against another.

The order is the file's: of a preference pair ``a`` is the chosen answer, so the win rate of ``a``
is how often a judge agrees with the data. A judge sees both orders anyway.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign import formats, records
from minialign.data.check import find
from minialign.errors import UserError
from minialign.formats.kinds import digest
from minialign.records import Comparison, Prompted, reference_in

EXAMPLE = 'a row is {"prompt": "…", "a": "…", "b": "…"}, or a preference pair'
ANSWER = 'a row is {"prompt": "…", "response": "…"}'
ORIGIN = ("model", "adapter")  # who wrote an answer


def read_comparisons(files: Sequence[str], limit: int | None = None) -> list[Comparison]:
    """Read a file of pairs; with two files, the answers of one against the other's.

    Raises:
        UserError: a file is missing, holds none, or has a bad row, with its line; two files have
            no prompts in common.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}", "1 or more")
    if len(files) > 2:
        raise UserError(f"{len(files)} files", "one file of pairs, or two files of answers")
    paths = [path for spec in files for path in find(spec)[:1]]
    comparisons = _read_pairs(paths[0]) if len(paths) == 1 else _match_answers(*paths)
    return comparisons[:limit]


def _read_pairs(path: Path) -> list[Comparison]:
    comparisons: list[Comparison] = []
    problem = ""
    for item in formats.stream(path):
        own = records.read_comparison(item.row, item.source)
        if own is not None and own.prompt[-1]["content"].strip():
            comparisons.append(own)
        elif item.problem is not None:
            raise UserError(str(item.problem), EXAMPLE)
        else:
            pairs, _ = formats.as_kind(item.records, records.Pair)
            for one in pairs:
                told = reference_in(item.row), one.source
                comparisons.append(Comparison(one.prompt, one.chosen, one.rejected, *told))
            problem = problem or ("" if pairs else item.source)
    if not comparisons:
        raise UserError(f"{problem or path}: no pair of answers", EXAMPLE)
    return comparisons


def _match_answers(one: Path, other: Path) -> list[Comparison]:
    """Put each answer of the first file against the answer of the second to the same prompt; the
    n-th to a prompt against the n-th."""
    theirs, ours = read_answers(other), read_answers(one)
    if missing := [answer.asked.source for key, answer in ours.items() if key not in theirs]:
        problem = f"{missing[0]}: {other} has no answer to this prompt ({len(missing)} such rows)"
        hint = "both files must answer the same prompts, as two runs of minialign generate do"
        raise UserError(problem, hint)
    comparisons: list[Comparison] = []
    for key, mine in ours.items():
        asked, against = mine.asked, theirs[key]
        told = reference_in(asked.extra) or reference_in(against.asked.extra), asked.source
        origins = {"file": str(one), **mine.origin}, {"file": str(other), **against.origin}
        comparisons.append(Comparison(asked.prompt, mine.text, against.text, *told, *origins))
    return comparisons


@dataclass(frozen=True)
class Answer:
    """An answer in a file, with what its row says besides."""

    asked: Prompted  # its extra: what stood beside the prompt (category, reference …)
    text: str
    origin: dict[str, str]  # model, adapter


def prompt_key(prompt: Any) -> str:
    """What stands for a prompt, whatever white space is around its messages."""
    return digest(prompt).hex()


def read_answers(path: Path) -> dict[tuple[str, int], Answer]:
    """Read what a file answers, by (``prompt_key``, how many answers to it came before).

    Raises:
        UserError: a bad row, with its line; no answers.
    """
    answers: dict[tuple[str, int], Answer] = {}
    counts: Counter[str] = Counter()
    for item in formats.stream(path):
        if item.problem is not None:
            raise UserError(str(item.problem), ANSWER)
        row = item.row if isinstance(item.row, dict) else {}
        extra = dict(row["extra"]) if isinstance(row.get("extra"), dict) else {}
        extra |= {name: row[name] for name in ("category", "reference") if name in row}
        origin = {name: row[name] for name in ORIGIN if isinstance(row.get(name), str)}
        for record in formats.as_kind(item.records, records.Demonstration)[0]:
            *prompt, last = record.messages
            if prompt:  # plain text answers nothing
                key = prompt_key(prompt)
                asked = Prompted(prompt, record.source, extra)
                answers[key, counts[key]] = Answer(asked, last["content"], origin)
                counts[key] += 1
    if not answers:
        raise UserError(f"{path} holds no answers", ANSWER)
    return answers
