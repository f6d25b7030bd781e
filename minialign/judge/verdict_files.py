"""Verdicts as lines of a file."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from minialign.durable import read_jsonl
from minialign.records import Verdict

SIDES = ("a", "b", "tie")


def verdict_of(row: dict[str, Any]) -> Verdict | None:
    """Read the verdict in a row of a file; None when the row holds none."""
    known = {field.name for field in fields(Verdict)}
    try:
        verdict = Verdict(**{key: value for key, value in row.items() if key in known})
    except TypeError:
        return None
    texts = (verdict.id, verdict.a, verdict.b, verdict.choice)
    orders = verdict.orders if isinstance(verdict.orders, list) else []
    sound = all(isinstance(text, str) for text in texts) and len(orders) == 2
    return verdict if sound and all(map(_sound, orders)) else None


def _sound(order: Any) -> bool:
    return isinstance(order, dict) and (
        "unparsed" in order or all(isinstance(order.get(side), int | float) for side in SIDES)
    )


def read_verdicts(file: Path) -> tuple[dict[str, Verdict], int]:
    """Read (the last verdict on each comparison by its key, how many rows are none); a line cut by
    a kill is skipped."""
    verdicts = [verdict_of(row) for row in read_jsonl(file)]
    return {one.comparison.key: one for one in verdicts if one is not None}, verdicts.count(None)
