"""The records every room speaks: one JSON object a line, readable and writable by hand.

A prompt is a list of messages (``{"role": …, "content": …}``); files may also hold it as a string,
which reads as one user message. Nothing here knows about tokens or models.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from minialign.durable import digest, now

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
class Comparison:
    """Two answers to one prompt, to be compared by a person, a judge or a scorer.

    Votes without texts (MT-bench's) have an empty prompt and answers: ``extra`` says which question
    it was, ``a_from`` and ``b_from`` who answered.
    """

    prompt: Prompt
    a: str
    b: str
    reference: str | None = None  # an answer known to be right, for judges that compare with it
    source: str = ""
    a_from: dict[str, Any] = field(default_factory=dict)  # model, adapter, seed
    b_from: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # the row's other keys
    again: bool = False  # shown to a person a second time

    @cached_property
    def key(self) -> str:
        """16 letters that stand for the prompt and the two answers, whichever comes first."""
        if not (self.prompt or self.a or self.b):
            return digest([self.extra, *sorted([self.a_from, self.b_from], key=digest)])
        return digest([self.prompt, *sorted([self.a, self.b])])

    @property
    def prompted(self) -> Prompted:
        """The prompt, as a scorer is given it."""
        return Prompted(self.prompt, self.source, self.extra)

    @property
    def sides(self) -> dict[str, Any]:
        """What votes, verdicts and rows say of it too: prompt, answers, and their origins."""
        names = ("prompt", "a", "b", "a_from", "b_from")
        return {name: getattr(self, name) for name in names}

    def swapped(self) -> Self:
        """Return the comparison with its answers the other way round."""
        return replace(self, a=self.b, b=self.a, a_from=self.b_from, b_from=self.a_from)

    def vote(self, choice: str, edited: str | None = None, note: str = "") -> "Vote":
        """Return what a person says of it now; of one that is shown again the id ends with ".2"."""
        name = f"{self.key}.2" if self.again else self.key
        return Vote(name, choice=choice, edited=edited, note=note, time=now(), **self.sides)


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

    @property
    def again(self) -> bool:
        """Whether the pair was shown a second time."""
        return "." in self.id

    @property
    def pair_id(self) -> str:
        """The id of the pair, for its first vote and the one when it was shown again."""
        return self.id.partition(".")[0]

    @property
    def comparison(self) -> Comparison:
        """The two answers that it is on."""
        return _compare(self)


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

    @property
    def comparison(self) -> Comparison:
        """The two answers that it is on."""
        return _compare(self)


def _compare(said: Vote | Verdict) -> Comparison:
    return Comparison(said.prompt, said.a, said.b, a_from=said.a_from, b_from=said.b_from)


Record = Demonstration | Pair | Ranking | Rated | Prompted


def as_prompt(value: str | list[Message]) -> Prompt:
    """A string reads as one user message; a list of messages is itself."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)


def noted(reasons: Sequence[str | None]) -> list[str] | None:
    """Note finish reasons as a record has them: None unless one is of a response that was cut."""
    return [reason or "stop" for reason in reasons] if CUT.intersection(reasons) else None


def marked(reasons: Sequence[str | None]) -> dict[str, list[str]]:
    """Note finish reasons as a key of a row that is written: only where one response was cut."""
    known = noted(reasons)
    return {"finish_reasons": known} if known else {}


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


def read_comparison(row: Any, source: str = "") -> Comparison | None:
    """Read the comparison in a row with the keys prompt, a and b; None when the row holds none."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("a", "b")):
        return None
    try:
        turns = as_prompt(row["prompt"])
        prompt = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in turns]
    except (KeyError, TypeError):
        return None
    origins = [row.get(key) for key in ("a_from", "b_from")]
    a_from, b_from = [origin if isinstance(origin, dict) else {} for origin in origins]
    pair = Comparison(prompt, row["a"], row["b"], reference_in(row), source, a_from, b_from)
    return pair if prompt else None


def reference_in(row: Any) -> str | None:
    """Find the answer known to be right that a row has."""
    reference = row.get("reference") if isinstance(row, dict) else None
    return reference if isinstance(reference, str) and reference.strip() else None


CHOICES = ("a", "b", "tie", "both_bad", "skip")


def vote_of(row: dict[str, Any]) -> Vote | None:
    """Read the vote in a row; None when the row holds none."""
    pair = read_comparison(row)
    known = "id" in row and isinstance(row.get("prompt"), list) and row.get("choice") in CHOICES
    if pair is None or not known:
        return None
    words: dict[str, Any] = {name: str(row.get(name, "")) for name in ("id", "note", "time")}
    return Vote(choice=row["choice"], edited=row.get("edited"), **words, **pair.sides)
