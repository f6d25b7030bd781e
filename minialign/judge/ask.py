"""Judging pairs of answers: verdicts on disk as they come, and nothing asked twice.

What a judge says of a question is kept in the home (``cache/judge``), by a hash of who was asked
and what: asking again asks nothing twice, in whatever file the verdicts are. A verdict's ``id`` is
a hash of the same, so a file of verdicts is gone on with where it ends.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minialign.durable import Journal, digest, now
from minialign.errors import UserError
from minialign.judge.judge import Judge, Question, Reading, decide, orders_of_pair, orders_of_values
from minialign.judge.memory import Memory
from minialign.judge.verdict_files import verdict_of
from minialign.records import Comparison, Message, Pair, Verdict, to_json


def judge_comparisons(
    judge: Judge,
    comparisons: Sequence[Comparison],
    *,
    file: Path | None = None,
    batch_size: int = 16,
    stop: threading.Event | None = None,
    memory: Memory | None = None,
) -> Iterator[Verdict]:
    """Judge each comparison, in their order, each asked in both orders of its answers.

    Verdicts that ``file`` has already are not asked for again; new ones are appended, and on disk
    before they are given out. ``batch_size`` comparisons are asked at once. Setting ``stop`` ends
    the iterator soon; everything said so far is kept. ``memory`` saves reading it again for each
    call.

    Raises:
        UserError: a template fails on a comparison, an endpoint fails for good, a file cannot be
            written.
    """
    stop = stop or threading.Event()
    memory = memory or Memory(judge)
    journal = Journal.open(file.expanduser()) if file else None
    known = {one.id: one for row in journal.rows if (one := verdict_of(row))} if journal else {}
    size = max(1, batch_size)
    for start in range(0, len(comparisons), size):
        window = [(verdict_id(judge, one), one) for one in comparisons[start : start + size]]
        fresh = {key: one for key, one in window if key not in known and one.a != one.b}
        asking = _ask(judge, fresh, memory, stop)
        for key, pair in window:
            while key not in known:
                verdict = _put_together(judge, key, pair, memory)
                if verdict is None:
                    if next(asking, None) is None:
                        return  # stopped
                    continue
                if journal is not None:
                    journal.append(to_json(verdict) | {"source": verdict.source})
                known[key] = verdict
            yield replace(known[key], source=pair.source, a_from=pair.a_from, b_from=pair.b_from)
        if stop.is_set():
            return


def verdict_id(judge: Judge, one: Comparison) -> str:
    """16 letters that stand for who is asked and what, the order of the answers included."""
    return digest([judge.identity, judge.debias, one.prompt, one.a, one.b, one.reference])


def _ask(
    judge: Judge, comparisons: dict[str, Comparison], memory: Memory, stop: threading.Event
) -> Iterator[str]:
    """Ask whatever is not known of these; gives the key of each answer when it is kept."""
    template, reader = judge.template, judge.reader

    def keep(questions: dict[str, Question], ask: Callable[..., Iterator]) -> Iterator[str]:
        fresh = [(key, one) for key, one in questions.items() if key not in memory.said]
        for index, said in ask([one for _, one in fresh]) if fresh else ():
            memory.keep(key := fresh[index][0], said)
            yield key

    if template is not None:
        before = [template.ask(one.prompt) for one in comparisons.values()]
        asked = {digest(one): Question(one) for one in before if one is not None}
        yield from keep(asked, lambda fresh: reader.write(fresh, template.ask_tokens, stop))
        if stop.is_set():
            return
    orders: dict[str, Question] = {}
    for group, one in enumerate(comparisons.values()):
        for messages in _questions(judge, one, memory):
            orders.setdefault(digest(messages), Question(messages, group))
    yield from keep(orders, lambda fresh: reader.read(fresh, judge.explain, stop))


def _questions(judge: Judge, one: Comparison, memory: Memory) -> list[list[Message]]:
    """Write the two questions: with ``a`` first and with ``b`` first; or each answer alone."""
    template, texts = judge.template, (one.a, one.b)
    if template is None:
        return [[*one.prompt, {"role": "assistant", "content": text}] for text in texts]
    told: dict[str, Any] = {"explain": judge.explain, "criteria": judge.criteria}
    told["reference"] = one.reference
    if (asked := template.ask(one.prompt)) is not None:
        told["notes"] = memory.said[digest(asked)]
    shown = [{"first": x, "second": y} for x, y in (texts, texts[::-1])]
    if judge.alone:
        shown = [{"response": text} for text in texts]
    try:
        return [template.messages(one.prompt, **answers, **told) for answers in shown]
    except UserError as error:
        where = f"{one.source}: " if one.source else ""
        raise UserError(f"{where}{error.problem}", error.hint) from None


def _put_together(judge: Judge, key: str, one: Comparison, memory: Memory) -> Verdict | None:
    """Put the verdict on a comparison together; None while something of it is not known."""
    template, reasons = judge.template, ""
    if one.a == one.b:
        orders = [{"a": 0.0, "b": 0.0, "tie": 1.0}] * 2
    else:
        asked = template.ask(one.prompt) if template else None
        if asked is not None and digest(asked) not in memory.said:
            return None
        said = [memory.said.get(digest(messages)) for messages in _questions(judge, one, memory)]
        readings = [reading for reading in said if isinstance(reading, Reading)]
        if len(readings) < 2:
            return None
        if judge.alone:
            orders = orders_of_values(readings[0], readings[1], judge.scale)
        else:
            orders = orders_of_pair(readings[0], readings[1])
        reasons = "\n\n".join(read.text for read in readings if read.shares and read.text)
    told: dict[str, Any] = {"judge": judge.name, "template": template.name if template else ""}
    told |= {"explanation": reasons, "source": one.source, "time": now()}
    return Verdict(key, choice=decide(orders, judge.debias), orders=orders, **told, **one.sides)


def verdicts_to_pairs(verdicts: Iterable[Verdict]) -> list[Pair]:
    """Make pairs for training, the judge's choice as chosen (RLAIF: Lee et al. 2023,
    arXiv:2309.00267).

    Ties and unparsed verdicts give none, and neither do votes on answers that are the same.
    """
    pairs = []
    for one in verdicts:
        if one.choice in ("a", "b") and one.a.strip() != one.b.strip():
            texts = (one.a, one.b) if one.choice == "a" else (one.b, one.a)
            pairs.append(Pair(one.prompt, *texts, source=one.source))
    return pairs
