"""Anything that gives an answer a number, a reward head for one, as a judge."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from minialign.durable import digest
from minialign.errors import UserError
from minialign.judge.judge import Question, Reading, decide
from minialign.records import Comparison, Prompted, Verdict
from minialign.rewards.scorer import Scorer


@dataclass(frozen=True)
class ValueReader:
    """Values each answer alone. The questions' last message is the answer."""

    scorer: Scorer

    def read(
        self, questions: Sequence[Question], explain: bool, stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        """Read values as the one share; answers to one prompt are valued together."""
        for prompt, same in groupby(enumerate(questions), key=lambda one: one[1].messages[:-1]):
            if stop.is_set():
                return
            texts = {index: one.messages[-1]["content"] for index, one in same}
            try:
                values = self.scorer.score(Prompted(prompt), list(texts.values()))
                yield from ((i, Reading([one])) for i, one in zip(texts, values, strict=True))
            except UserError:  # one does not fit
                for index, text in texts.items():
                    try:
                        yield index, Reading(self.scorer.score(Prompted(prompt), [text]))
                    except UserError as reason:
                        yield index, Reading(None, 0.0, reason.problem)

    def write(
        self, questions: Sequence[Question], max_tokens: int, stop: threading.Event
    ) -> Iterator[tuple[int, str]]:
        """Refuse: numbers write nothing."""
        raise UserError("a reward head writes nothing", "use a model as the judge")


def score_comparisons(scorer: Scorer, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
    """Judge by a scorer's numbers, both orders alike: the higher one wins, however little."""
    for one in comparisons:
        a, b = scorer.score(one.prompted, [one.a, one.b])
        order = {"a": float(a > b), "b": float(b > a), "tie": float(a == b)}
        orders = [order | {"value_a": a, "value_b": b}] * 2
        told: dict[str, Any] = {"judge": scorer.name, "template": "", "source": one.source}
        name, choice = digest([scorer.name, one.prompt, one.a, one.b]), decide(orders)
        yield Verdict(name, choice=choice, orders=orders, **told, **one.sides)
