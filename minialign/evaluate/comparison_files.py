"""Pairs of answers to be judged, from files: pairs, duels, or one file of answers against another.

The order is the file's: of a preference pair ``a`` is the chosen answer, so the win rate of ``a``
is how often a judge agrees with the data. A judge sees both orders anyway.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign import formats
from minialign.data.check import find
from minialign.errors import UserError
from minialign.formats.kinds import digest
from minialign.formats.reading import Item
from minialign.judge.ask import Duel
from minialign.records import Demonstration, Pair, Prompt, as_prompt

EXAMPLE = 'a row is {"prompt": "…", "a": "…", "b": "…"}, or a preference pair'
ANSWER = 'a row is {"prompt": "…", "response": "…"}'
ORIGIN = ("model", "adapter")  # who wrote an answer


def read_duels(files: Sequence[str], limit: int | None = None) -> list[Duel]:
    """The duels of a file of pairs; with two files, the answers of one against the other's.

    Raises:
        UserError: a file is missing, holds none, or has a bad row, with its line; two files have
            no prompts in common.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}", "1 or more")
    if len(files) > 2:
        raise UserError(f"{len(files)} files", "one file of pairs, or two files of answers")
    paths = [path for spec in files for path in find(spec)[:1]]
    found = _pairs(paths[0]) if len(paths) == 1 else _matched(*paths)
    return found[:limit]


def _pairs(path: Path) -> list[Duel]:
    duels: list[Duel] = []
    problem = ""
    for item in formats.stream(path):
        if (duel := _own(item)) is not None:
            duels.append(duel)
        elif item.problem is not None:
            raise UserError(str(item.problem), EXAMPLE)
        else:
            reference = reference_in(item.row)
            pairs, _ = formats.as_kind(item.records, Pair)
            duels += [
                Duel(pair.prompt, pair.chosen, pair.rejected, reference, pair.source)
                for pair in pairs
            ]
            problem = problem or ("" if pairs else item.source)
    if not duels:
        raise UserError(f"{problem or path}: no pair of answers", EXAMPLE)
    return duels


def _own(item: Item) -> Duel | None:
    """The duel of a row with the keys prompt, a and b, whatever else it has."""
    row = item.row
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("a", "b")):
        return None
    try:
        prompt = as_prompt(row["prompt"])
        turns = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in prompt]
    except (KeyError, TypeError):
        return None
    if not turns or not turns[-1]["content"].strip():
        return None
    origins = [row.get(key) for key in ("a_from", "b_from")]
    a_from, b_from = [origin if isinstance(origin, dict) else {} for origin in origins]
    return Duel(turns, row["a"], row["b"], reference_in(row), item.source, a_from, b_from)


def reference_in(row: Any) -> str | None:
    """The answer known to be right that a row has."""
    found = row.get("reference") if isinstance(row, dict) else None
    return found if isinstance(found, str) and found.strip() else None


def _matched(one: Path, other: Path) -> list[Duel]:
    """Each answer of the first file against the answer of the second to the same prompt; the n-th
    to a prompt against the n-th."""
    theirs = read_answers(other)
    duels: list[Duel] = []
    missing: list[str] = []
    for key, mine in read_answers(one).items():
        if (against := theirs.get(key)) is None:
            missing.append(mine.source)
            continue
        reference = reference_in(mine.extra) or reference_in(against.extra)
        duels.append(
            Duel(mine.prompt, mine.text, against.text, reference, mine.source,
                 {"file": str(one), **mine.origin}, {"file": str(other), **against.origin})
        )  # fmt: skip
    if missing:
        raise UserError(
            f"{missing[0]}: {other} has no answer to this prompt ({len(missing)} such rows)",
            "both files must answer the same prompts, as two runs of minialign generate do",
        )
    return duels


@dataclass(frozen=True)
class Answer:
    """An answer in a file, with what its row says besides."""

    prompt: Prompt
    text: str
    source: str
    extra: dict[str, Any]  # what stood beside the prompt: category, reference …
    origin: dict[str, str]  # model, adapter


def prompt_key(prompt: Any) -> str:
    """What stands for a prompt, whatever white space is around its messages."""
    return digest(prompt).hex()


def read_answers(path: Path) -> dict[tuple[str, int], Answer]:
    """(``prompt_key``, how many answers to it came before): what the file answers.

    Raises:
        UserError: a bad row, with its line; no answers.
    """
    found: dict[tuple[str, int], Answer] = {}
    counts: Counter[str] = Counter()
    for item in formats.stream(path):
        if item.problem is not None:
            raise UserError(str(item.problem), ANSWER)
        row = item.row if isinstance(item.row, dict) else {}
        extra = dict(row["extra"]) if isinstance(row.get("extra"), dict) else {}
        extra |= {name: row[name] for name in ("category", "reference") if name in row}
        origin = {name: row[name] for name in ORIGIN if isinstance(row.get(name), str)}
        for answer in formats.as_kind(item.records, Demonstration)[0]:
            *prompt, last = answer.messages
            if prompt:  # plain text answers nothing
                key = prompt_key(prompt)
                place = key, counts[key]
                found[place] = Answer(prompt, last["content"], answer.source, extra, origin)
                counts[key] += 1
    if not found:
        raise UserError(f"{path} holds no answers", ANSWER)
    return found
