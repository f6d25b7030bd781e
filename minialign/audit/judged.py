"""A judge on a gold set: asked now, or read from what it said before; each item beside its gold."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minialign.audit.gold_sets import SWAPPED, Gold, key_of, read_gold, turned
from minialign.errors import UserError
from minialign.judge import Judge, decide
from minialign.judge.ask import Duel, judge_duels
from minialign.judge.verdict_files import read_verdicts
from minialign.records import Prompted, Verdict
from minialign.rewards.scorer import Scorer
from minialign.statistics import agreement


@dataclass(frozen=True)
class Judged:
    """A gold item with what the judge said: in all, with a first, with b first."""

    gold: Gold
    choice: str
    forward: str
    backward: str
    probability: float | None = None  # that a is better, where the judge has one
    values: tuple[float, float] | None = None  # of a judge that gives each answer a number
    both_orders: bool = True  # whether it is known what it said in each

    @property
    def right(self) -> float:
        """How much of it is right: the mean of both orders, a tie counts half."""
        choices = [self.forward, self.backward]
        return agreement.accuracy(choices, [self.gold.best] * 2)


def judged(gold: Gold, verdict: Verdict) -> Judged:
    """One item; the verdict may have the answers the other way round."""
    same = verdict.a == gold.duel.a
    turn = {} if same else SWAPPED
    first, second = (decide([order]) for order in verdict.orders)
    if not same:
        first, second = second, first
    shares = [
        order["a" if same else "b"] + order["tie"] / 2
        for order in verdict.orders
        if "unparsed" not in order
    ]
    order = verdict.orders[0]
    values = [order[f"value_{side}"] for side in ("ab" if same else "ba") if "value_a" in order]
    return Judged(
        gold,
        turn.get(verdict.choice, verdict.choice),
        turn.get(first, first),
        turn.get(second, second),
        sum(shares) / len(shares) if len(shares) == 2 else None,
        (values[0], values[1]) if values else None,
    )


def stored(path: Path, items: Sequence[Gold]) -> list[Judged]:
    """What a file says of the items: verdicts of ``minialign judge``, or votes as MT-bench's are.
    Items that it says nothing of are left out.

    Raises:
        UserError: when it says nothing of any.
    """
    if verdicts := read_verdicts(path)[0]:
        by_key = {key_of(Duel(one.prompt, one.a, one.b)): one for one in verdicts.values()}
        known = [(item, by_key.get(item.key)) for item in items]
        result = [judged(item, one) for item, one in known if one is not None]
    else:
        votes = {one.key: one for one in read_gold([str(path)])}
        result = [_of_vote(item, votes[item.key]) for item in items if item.key in votes]
    if not result:
        raise UserError(
            f"{path}: it says nothing of any pair of the gold set",
            "give the verdicts on these very pairs, or a judge to ask: a model, run or reward:RUN",
        )
    return result


def _of_vote(item: Gold, vote: Gold) -> Judged:
    swap = SWAPPED if turned(vote.duel, item.duel) else {}
    choice = swap.get(vote.best, vote.best)
    if vote.conflict:  # which order said what was not stored
        return Judged(item, "tie", "a", "b", both_orders=False)
    return Judged(item, choice, choice, choice, both_orders=False)


def ask(
    judge: Judge,
    items: Sequence[Gold],
    file: Path | None = None,
    batch_size: int = 16,
    stop: threading.Event | None = None,
) -> Iterator[Judged]:
    """The items as the judge decides them, both orders of each; what ``file`` holds already is not
    asked again.

    Raises:
        UserError: for items without texts.
    """
    need_texts(items)
    duels = [one.duel for one in items]
    found = judge_duels(judge, duels, file=file, batch_size=batch_size, stop=stop)
    for item, verdict in zip(items, found, strict=False):  # stopped, there are fewer verdicts
        yield judged(item, verdict)


def score(scorer: Scorer, items: Sequence[Gold]) -> Iterator[Judged]:
    """The items by a scorer's numbers: no order, no probabilities."""
    need_texts(items)
    for item in items:
        duel = item.duel
        a, b = scorer.score(Prompted(duel.prompt, duel.source, duel.extra), [duel.a, duel.b])
        choice = "a" if a > b else "b" if b > a else "tie"
        yield Judged(item, choice, choice, choice, values=(a, b))


def need_texts(items: Sequence[Gold]) -> None:
    """Raise UserError when there is nothing to judge."""
    bare = [one for one in items if not one.has_texts]
    if bare:
        raise UserError(
            f"{bare[0].duel.source}: votes without the texts that they are of",
            "a judge needs the texts; verdicts that are stored can be compared: "
            "minialign audit VERDICTS.jsonl --gold VOTES.jsonl",
        )
