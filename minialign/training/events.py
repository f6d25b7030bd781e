"""What a run tells whoever consumes it."""

from dataclasses import dataclass, field
from typing import Any

UNKNOWN = 10**9  # steps of a run that only its minutes end


@dataclass(frozen=True)
class Event:
    """What happened: "note", "reference", "step", "evaluating", "eval", "saved" or "end"."""

    kind: str
    text: str = ""
    step: int = 0
    total: int = 0
    values: dict[str, Any] = field(default_factory=dict)
