"""What a judge is, and what becomes of what it said: both orders, then one choice."""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minialign.judge.templates import Template
from minialign.records import Message

FLOOR = 1e-6  # below it a probability is not told apart from nothing
DIGITS = 6


@dataclass(frozen=True)
class Question:
    """One question to a judge, in the words of its template."""

    messages: list[Message]
    group: int = 0  # questions of one group share their beginning: both orders of a pair


@dataclass(frozen=True)
class Reading:
    """What was read of one answer: the shares of the template's words, which sum to 1, and what
    they had together before; None when there was no verdict to read."""

    shares: list[float] | None
    mass: float = 1.0
    text: str = ""  # the reason; or the reply, where no verdict could be read


class Reader(Protocol):
    """Whoever answers the questions: a loaded model, a server, a reward head."""

    def read(
        self, questions: Sequence[Question], explain: bool, stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        """Read (which question, its reading), in any order; fewer when ``stop`` is set."""
        ...

    def write(
        self, questions: Sequence[Question], max_tokens: int, stop: threading.Event
    ) -> Iterator[tuple[int, str]]:
        """Write (which question, the text of the answer), in any order."""
        ...


@dataclass(frozen=True)
class JudgeOptions:
    """How a judge is asked, and where."""

    template: str | None = None  # a name or a file; "pairwise", or "criteria" where some are given
    adapter: str | None = None  # on the judge's model
    url: str | None = None  # of an OpenAI-compatible server; its key is in MINIALIGN_JUDGE_KEY
    explain: bool = False  # a reason is written before the verdict
    debias: bool = False  # the two orders' log-odds are averaged, instead of both having to agree
    criteria: str | None = None  # a text, or a file that holds it
    timeout: float | None = None  # seconds for one request to a server
    retries: int | None = None  # how often a request is tried again


@dataclass(frozen=True)
class Judge:
    """Somebody to ask, and how."""

    name: str  # as it stands in verdicts
    identity: str  # the same identity answers the same: hashes of model, adapter, templates
    reader: Reader
    template: Template | None  # None: the reader gives numbers, a reward head
    explain: bool = False
    debias: bool = False
    criteria: str | None = None

    @property
    def alone(self) -> bool:
        """Whether each answer is valued alone, and the values are compared."""
        return self.template is None or self.template.mode == "single"

    @property
    def scale(self) -> list[float]:
        """What the shares of a reading stand for when answers are valued alone."""
        return [1.0] if self.template is None else self.template.scale


def orders_of_pair(first: Reading, second: Reading) -> list[dict[str, Any]]:
    """Make the two entries of ``Verdict.orders`` of the readings with ``a`` and with ``b`` first.

    Shares are of (first, second) or (first, second, tie); here they are of the answers.
    """
    orders: list[dict[str, Any]] = []
    for reading, places in ((first, (0, 1, 2)), (second, (1, 0, 2))):
        if reading.shares is None:
            orders.append({"unparsed": reading.text})
            continue
        shares = [*reading.shares, 0.0]
        a, b, tie = (shares[place] for place in places)
        orders.append(_round({"a": a, "b": b, "tie": tie, "mass": reading.mass}))
    return orders


def _round(order: dict[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in order.items()}


def orders_of_values(a: Reading, b: Reading, scale: Sequence[float]) -> list[dict[str, Any]]:
    """Make the entries of readings of each answer alone: their values, and the Bradley-Terry
    probability σ(value of a − value of b). There is no order here, so both entries are alike."""
    if a.shares is None or b.shares is None:
        return [{"unparsed": a.text if a.shares is None else b.text}] * 2
    # Expected values under the shares (G-Eval, Liu et al. 2023, arXiv:2303.16634, eq. 1).
    ours, theirs = (
        round(math.fsum(share * step for share, step in zip(shares, scale, strict=True)), DIGITS)
        for shares in (a.shares, b.shares)
    )
    order = {"a": _sigmoid(ours - theirs), "b": _sigmoid(theirs - ours), "tie": 0.0}
    order |= {"value_a": ours, "value_b": theirs, "mass": min(a.mass, b.mass)}
    return [_round(order)] * 2


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def decide(orders: Sequence[dict[str, Any]], debias: bool = False) -> str:
    """ "a", "b", "tie" or "unparsed".

    A preference counts only when both orders have it, else it is a tie (Zheng et al. 2023,
    arXiv:2306.05685, section 3.4). With ``debias`` the two orders' log-odds are averaged instead,
    which cancels what the judge gives to a place. An order that could not be read makes the whole
    verdict unparsed: it is never a win.
    """
    if any("unparsed" in order for order in orders):
        return "unparsed"
    if debias:
        logs = {
            name: math.fsum(math.log(max(order[name], FLOOR)) for order in orders)
            for name in ("a", "b", "tie")
        }
        orders = [_round(logs)]
    choices = {_find_best(order) for order in orders}
    return choices.pop() if len(choices) == 1 else "tie"


def _find_best(order: dict[str, Any]) -> str:
    a, b, tie = order["a"], order["b"], order["tie"]
    return "a" if a > max(b, tie) else "b" if b > max(a, tie) else "tie"
