"""A judge on reference labels: asked now, or read from what it said before; each item with both."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minialign.audit.reference_labels import SWAPPED, Labelled, is_turned, read_gold
from minialign.errors import UserError
from minialign.judge import Judge, decide
from minialign.judge.ask import judge_comparisons
from minialign.judge.values import score_comparisons
from minialign.judge.verdict_files import read_verdicts
from minialign.records import Comparison, Verdict
from minialign.rewards.scorer import Scorer
from minialign.statistics import agreement


@dataclass(frozen=True)
class Outcome:
    """A labelled item with what the judge said: in all, with a first, with b first."""

    item: Labelled
    choice: str
    forward: str
    backward: str
    probability: float | None = None  # that a is better, where the judge has one
    values: tuple[float, float] | None = None  # of a judge that gives each answer a number
    both_orders: bool = True  # whether it is known what it said in each

    @property
    def right(self) -> float:
        """How much of it is right: the mean of both orders, a tie counts half."""
        return agreement.accuracy([self.forward, self.backward], [self.item.best] * 2)


def compare_verdict(item: Labelled, verdict: Verdict) -> Outcome:
    """Put a verdict beside its item; it may have the answers the other way round."""
    orders, choice = verdict.orders, verdict.choice
    if verdict.a != item.comparison.a:
        orders, choice = [_swap(order) for order in orders[::-1]], SWAPPED.get(choice, choice)
    forward, backward = (decide([order]) for order in orders)
    shares = [order["a"] + order["tie"] / 2 for order in orders if "unparsed" not in order]
    probability = sum(shares) / len(shares) if len(shares) == 2 else None
    values = (orders[0]["value_a"], orders[0]["value_b"]) if "value_a" in orders[0] else None
    return Outcome(item, choice, forward, backward, probability, values)


def _swap(order: dict[str, Any]) -> dict[str, Any]:
    names = {"a": "b", "b": "a", "value_a": "value_b", "value_b": "value_a"}
    return {names.get(name, name): value for name, value in order.items()}


def read_outcomes(path: Path, items: Sequence[Labelled]) -> list[Outcome]:
    """Read what a file says of the items: verdicts of ``minialign judge``, or votes as MT-bench's
    are. Items that it says nothing of are left out.

    Raises:
        UserError: when it says nothing of any.
    """
    said: dict[str, Any] = read_verdicts(path)[0]
    compare: Callable[[Labelled, Any], Outcome] = compare_verdict
    if not said:
        said = {one.comparison.key: one for one in read_gold([str(path)])}
        compare = _compare_vote
    known = [(item, said.get(item.comparison.key)) for item in items]
    outcomes = [compare(item, one) for item, one in known if one is not None]
    if not outcomes:
        ask = "give the verdicts on these very pairs, or a judge to ask: a model, run or reward"
        raise UserError(f"{path}: it says nothing of any pair of the gold set", f"{ask}:RUN")
    return outcomes


def _compare_vote(item: Labelled, vote: Labelled) -> Outcome:
    if vote.conflict:  # which order said what was not stored
        return Outcome(item, "tie", "a", "b", both_orders=False)
    swap = SWAPPED if is_turned(vote.comparison, item.comparison) else {}
    choice = swap.get(vote.best, vote.best)
    return Outcome(item, choice, choice, choice, both_orders=False)


def ask_judge(
    judge: Judge,
    items: Sequence[Labelled],
    file: Path | None = None,
    batch_size: int = 16,
    stop: threading.Event | None = None,
) -> Iterator[Outcome]:
    """Judge the items, both orders of each; what ``file`` holds already is not asked again.

    Raises:
        UserError: for items without texts.
    """
    pairs = check_texts(items)
    verdicts = judge_comparisons(judge, pairs, file=file, batch_size=batch_size, stop=stop)
    for item, verdict in zip(items, verdicts, strict=False):  # stopped, there are fewer verdicts
        yield compare_verdict(item, verdict)


def ask_scorer(scorer: Scorer, items: Sequence[Labelled]) -> Iterator[Outcome]:
    """Judge the items by a scorer's numbers: no order, no probabilities."""
    verdicts = score_comparisons(scorer, check_texts(items))
    for item, verdict in zip(items, verdicts, strict=True):
        yield replace(compare_verdict(item, verdict), probability=None)


def check_texts(items: Sequence[Labelled]) -> list[Comparison]:
    """Return what is to be judged; raise UserError when there are no texts."""
    for item in items:
        if not item.has_texts:
            raise UserError(
                f"{item.comparison.source}: votes without the texts that they are of",
                "a judge needs the texts; verdicts that are stored can be compared: "
                "minialign audit VERDICTS.jsonl --gold VOTES.jsonl",
            )
    return [item.comparison for item in items]
