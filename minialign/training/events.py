"""What a run tells whoever consumes it: one small dataclass for each thing that can happen.

Steps count from 1; ``total`` is how many there will be, as far as is known. ``as_json`` is the line
that ``--json`` prints.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

UNKNOWN = 10**9  # steps of a run that only its minutes end
Values = dict[str, Any]


@dataclass(frozen=True)
class Note:
    """Something said in words, with the numbers in it."""

    kind: ClassVar[str] = "note"
    text: str
    step: int = 0
    total: int = 0
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceRead:
    """The reference's log-probs of so many examples are there; ``cached`` were on disk."""

    kind: ClassVar[str] = "reference"
    step: int
    total: int
    values: Values  # cached


@dataclass(frozen=True)
class Sampled:
    """So many of the prompts are answered; ``text`` says which prompts."""

    kind: ClassVar[str] = "sampling"
    text: str
    step: int
    total: int
    values: Values  # eta in seconds; prompt, or the policy's number


@dataclass(frozen=True)
class PhaseSampled:
    """The answers of a phase are written, scored and read."""

    kind: ClassVar[str] = "phase"
    text: str
    step: int
    total: int
    values: Values


@dataclass(frozen=True)
class Updated:
    """One update of the weights was made."""

    kind: ClassVar[str] = "step"
    step: int
    total: int
    values: Values


@dataclass(frozen=True)
class Evaluating:
    """So many of the held-out rows are read."""

    kind: ClassVar[str] = "evaluating"
    step: int
    total: int
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """The held-out rows were read, or answered."""

    kind: ClassVar[str] = "eval"
    step: int
    total: int
    values: Values
    text: str = ""


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    kind: ClassVar[str] = "saved"
    step: int
    total: int
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """The run ended; ``values`` is its summary, or its status alone."""

    kind: ClassVar[str] = "end"
    values: Values
    step: int = 0
    total: int = 0


Event = (
    Note | ReferenceRead | Sampled | PhaseSampled | Updated | Evaluating | Evaluated | Saved | Ended
)


def as_json(event: Event) -> Values:
    """An event as a JSON object: its kind, and what of text, step, total and values it has."""
    texts = {"text": getattr(event, "text", "")}
    numbers = {"step": event.step, "total": event.total, "values": event.values}
    return {"kind": event.kind, **{key: one for key, one in (texts | numbers).items() if one}}
