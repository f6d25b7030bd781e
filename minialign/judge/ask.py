"""Judging pairs of answers: who judges, what was said before, verdicts on disk as they come.

What a judge says of a question is kept in the home (``cache/judge``), by a hash of who was asked
and what: asking again asks nothing twice, in whatever file the verdicts are. A verdict's ``id`` is
a hash of the same, so a file of verdicts is gone on with where it ends.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minialign.durable import Journal, digest, now
from minialign.errors import UserError
from minialign.judge.judge import Judge, Question, Reading, decide, paired, valued
from minialign.judge.memory import Memory
from minialign.judge.open import open_judge
from minialign.judge.verdict_files import verdict_of
from minialign.records import Message, Pair, Prompt, Verdict, to_json

__all__ = ["Duel", "judge_duels", "open_judge", "verdicts_to_pairs"]


@dataclass(frozen=True)
class Duel:
    """Two answers to one prompt, to be judged."""

    prompt: Prompt
    a: str
    b: str
    reference: str | None = None  # an answer known to be right, for templates that compare with it
    source: str = ""
    a_from: dict[str, Any] = field(default_factory=dict)
    b_from: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def judge_duels(
    judge: Judge,
    duels: Sequence[Duel],
    *,
    file: Path | None = None,
    batch_size: int = 16,
    stop: threading.Event | None = None,
    memory: Memory | None = None,
) -> Iterator[Verdict]:
    """A verdict on each duel, in the order of the duels, each asked in both orders.

    Verdicts that ``file`` has already are not asked for again; new ones are appended, and on disk
    before they are given out. ``batch_size`` duels are asked at once. Setting ``stop`` ends the
    iterator soon; everything said so far is kept. ``memory`` saves reading it again for each call.

    Raises:
        UserError: a template fails on a duel, an endpoint fails for good, a file cannot be written.
    """
    stop = stop or threading.Event()
    memory = memory or Memory(judge)
    journal = Journal.open(file.expanduser()) if file else None
    rows = journal.rows if journal else []
    known = {verdict.id: verdict for row in rows if (verdict := verdict_of(row))}
    for start in range(0, len(duels), max(1, batch_size)):
        window = [(_id(judge, duel), duel) for duel in duels[start : start + max(1, batch_size)]]
        fresh = {key: duel for key, duel in window if key not in known and duel.a != duel.b}
        asking = _ask(judge, fresh, memory, stop)
        for key, duel in window:
            while key not in known:
                verdict = _verdict(judge, key, duel, memory)
                if verdict is None:
                    if next(asking, None) is None:
                        return  # stopped
                    continue
                if journal is not None:
                    journal.append(to_json(verdict) | {"source": verdict.source})
                known[key] = verdict
            yield replace(known[key], source=duel.source, a_from=duel.a_from, b_from=duel.b_from)
        if stop.is_set():
            return


def _id(judge: Judge, duel: Duel) -> str:
    return digest([judge.identity, judge.debias, duel.prompt, duel.a, duel.b, duel.reference])


def _ask(
    judge: Judge, duels: dict[str, Duel], memory: Memory, stop: threading.Event
) -> Iterator[str]:
    """Ask whatever is not known of these duels; gives the key of each answer when it is kept."""
    if judge.template is not None:
        before = [judge.template.ask(duel.prompt) for duel in duels.values()]
        waiting = {digest(asked): asked for asked in before if asked is not None}
        keys = [key for key in waiting if key not in memory.said]
        questions = [Question(waiting[key]) for key in keys]
        if questions:
            for index, text in judge.reader.write(questions, judge.template.ask_tokens, stop):
                memory.keep(keys[index], text)
                yield keys[index]
        if stop.is_set():
            return
    asked_of: dict[str, Question] = {}
    for group, duel in enumerate(duels.values()):
        for messages in _questions(judge, duel, memory):
            key = digest(messages)
            if key not in memory.said:
                asked_of.setdefault(key, Question(messages, group))
    keys = list(asked_of)
    if keys:
        for index, reading in judge.reader.read(list(asked_of.values()), judge.explain, stop):
            memory.keep(keys[index], reading)
            yield keys[index]


def _questions(judge: Judge, duel: Duel, memory: Memory) -> list[list[Message]]:
    """The two questions of a duel: with ``a`` first and with ``b`` first; or each answer alone."""
    template = judge.template
    if template is None:
        return [[*duel.prompt, {"role": "assistant", "content": text}] for text in (duel.a, duel.b)]
    values: dict[str, Any] = {
        "explain": judge.explain, "reference": duel.reference, "criteria": judge.criteria,
    }  # fmt: skip
    if (asked := template.ask(duel.prompt)) is not None:
        values["notes"] = memory.said[digest(asked)]
    try:
        if judge.alone:
            return [template.messages(duel.prompt, response=t, **values) for t in (duel.a, duel.b)]
        return [
            template.messages(duel.prompt, first=first, second=second, **values)
            for first, second in ((duel.a, duel.b), (duel.b, duel.a))
        ]
    except UserError as error:
        where = f"{duel.source}: " if duel.source else ""
        raise UserError(f"{where}{error.problem}", error.hint) from None


def _verdict(judge: Judge, key: str, duel: Duel, memory: Memory) -> Verdict | None:
    """The verdict on a duel; None while something of it is not known."""
    reasons: list[str] = []
    if duel.a == duel.b:
        orders = [{"a": 0.0, "b": 0.0, "tie": 1.0}] * 2
    else:
        asked = judge.template.ask(duel.prompt) if judge.template is not None else None
        if asked is not None and digest(asked) not in memory.said:
            return None
        said = [memory.said.get(digest(messages)) for messages in _questions(judge, duel, memory)]
        first, second = said
        if not isinstance(first, Reading) or not isinstance(second, Reading):
            return None
        if judge.alone:
            orders = valued(first, second, judge.scale)
        else:
            orders = paired(first, second)
        reasons = [one.text for one in (first, second) if one.shares is not None and one.text]
    return Verdict(
        id=key, prompt=duel.prompt, a=duel.a, b=duel.b, choice=decide(orders, judge.debias),
        orders=orders, judge=judge.name, template=judge.template.name if judge.template else "",
        explanation="\n\n".join(reasons), a_from=duel.a_from, b_from=duel.b_from,
        source=duel.source, time=now(),
    )  # fmt: skip


def verdicts_to_pairs(verdicts: Iterable[Verdict]) -> list[Pair]:
    """Pairs for training, the judge's choice as chosen (RLAIF, Lee et al. 2023, arXiv:2309.00267).

    Ties and unparsed verdicts give none, and neither do votes on answers that are the same.
    """
    pairs = []
    for one in verdicts:
        if one.choice in ("a", "b") and one.a.strip() != one.b.strip():
            texts = (one.a, one.b) if one.choice == "a" else (one.b, one.a)
            pairs.append(Pair(one.prompt, *texts, source=one.source))
    return pairs
