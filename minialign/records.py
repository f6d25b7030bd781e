"""The records every room speaks: one JSON object a line, readable and writable by hand.

A prompt is a list of messages (``{"role": …, "content": …}``); files may also hold it as a string,
which reads as one user message. Nothing here knows about tokens or models.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
Prompt = list[Message]

# Finish reasons of a response that did not end by itself. Its end of turn is not trained: none was
# written. ``finish_reasons`` of a record has one for each response (of a demonstration the last),
# in their order; None, as in rows that say nothing of it, where all of them ended.
CUT = frozenset({"length", "cancelled"})


@dataclass(frozen=True)
class Demonstration:
    """What the assistant should say. ``messages`` ends with an assistant turn, or is one
    ``{"role": "text"}`` message: plain text without a template, trained on whole."""

    messages: list[Message]
    source: str = ""  # where it was read: "file:line"
    finish_reasons: list[str] | None = None


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt; ``chosen`` is the better one."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None  # how much better, where the data says so
    source: str = ""
    finish_reasons: list[str] | None = None


@dataclass(frozen=True)
class Ranking:
    """k >= 2 responses to one prompt with a score each (higher is better)."""

    prompt: Prompt
    responses: list[str]
    scores: list[float]
    source: str = ""
    finish_reasons: list[str] | None = None


@dataclass(frozen=True)
class Rated:
    """One response with a thumb up or down."""

    prompt: Prompt
    response: str
    good: bool
    source: str = ""
    finish_reasons: list[str] | None = None


@dataclass(frozen=True)
class Prompted:
    """A prompt alone, to be answered; or one ``{"role": "text"}`` message: plain text without a
    template, to be continued. ``extra`` keeps the row's other keys (a reference…)."""

    prompt: Prompt
    source: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def raw(self) -> bool:
        """Whether it is plain text to be continued."""
        return self.prompt[0]["role"] == "text"

    @property
    def written(self) -> Prompt | str:
        """The prompt as rows of answers have it: plain text is a string."""
        return self.prompt[0]["content"] if self.raw else self.prompt


@dataclass(frozen=True)
class Vote:
    """What a person said of two responses, in the order in which they were shown.

    ``choice`` is "a", "b", "tie", "both_bad" or "skip"; ``edited`` is the user's own better text.
    """

    id: str
    prompt: Prompt
    a: str
    b: str
    choice: str
    edited: str | None = None
    note: str = ""
    a_from: dict[str, Any] = field(default_factory=dict)  # model, adapter, seed
    b_from: dict[str, Any] = field(default_factory=dict)
    time: str = ""  # ISO 8601, UTC


@dataclass(frozen=True)
class Verdict:
    """What a judge said of two responses, asked in both orders.

    ``choice`` is "a", "b", "tie" or "unparsed". ``orders`` has two entries, with ``a`` shown first
    and with ``b`` shown first: ``{"a": p, "b": p, "tie": p, "mass": p}``, the judge's probabilities
    of each answer being the better one, whichever was shown where (``mass`` is what all verdict
    tokens had together before these were divided by it), or ``{"unparsed": text}``.
    """

    id: str
    prompt: Prompt
    a: str
    b: str
    choice: str
    orders: list[dict[str, Any]]
    judge: str
    template: str
    explanation: str = ""
    a_from: dict[str, Any] = field(default_factory=dict)
    b_from: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    time: str = ""  # ISO 8601, UTC


Record = Demonstration | Pair | Ranking | Rated | Prompted


def as_prompt(value: str | list[Message]) -> Prompt:
    """A string reads as one user message; a list of messages is itself."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)


def noted(reasons: Sequence[str | None]) -> list[str] | None:
    """Finish reasons as a record has them: None unless one is of a response that was cut."""
    return [reason or "stop" for reason in reasons] if CUT.intersection(reasons) else None


def marked(reasons: Sequence[str | None]) -> dict[str, list[str]]:
    """The same for a row that is written: ``finish_reasons`` only where one was cut."""
    found = noted(reasons)
    return {"finish_reasons": found} if found else {}


def reasons_of(record: Demonstration | Pair | Ranking | Rated, *places: int) -> list[str] | None:
    """The finish reasons of some of a record's responses, for a record of these alone."""
    known = record.finish_reasons
    return noted([known[place] for place in places]) if known else None


def to_json(record: Any) -> dict[str, Any]:
    """The JSON object of a record, without empty optional fields and without its source."""
    return {
        key: value
        for key, value in asdict(record).items()
        if key != "source" and value is not None and value != {}
    }


CHOICES = ("a", "b", "tie", "both_bad", "skip")


def vote_of(row: dict[str, Any]) -> Vote | None:
    """The vote in a row; None when the row holds none."""
    try:
        vote = Vote(
            id=str(row["id"]),
            prompt=[{"role": str(m["role"]), "content": str(m["content"])} for m in row["prompt"]],
            a=row["a"],
            b=row["b"],
            choice=row["choice"],
            edited=row.get("edited"),
            note=str(row.get("note", "")),
            a_from=dict(row.get("a_from") or {}),
            b_from=dict(row.get("b_from") or {}),
            time=str(row.get("time", "")),
        )
    except (KeyError, TypeError, ValueError):
        return None
    sound = isinstance(vote.a, str) and isinstance(vote.b, str) and vote.choice in CHOICES
    return vote if sound and vote.prompt else None
