"""Counts and lengths of records, and how often the longer answer is the chosen one."""

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minialign.formats.kinds import answers_of, kind_name, prompt_of, turn_into
from minialign.records import Demonstration, Pair, Prompt, Record
from minialign.statistics.shares import wilson

TokenCount = Callable[[Prompt, list[str]], tuple[int, list[int]]]  # (prompt's, each answer's)


def _summary(values: array) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "mean": round(statistics.fmean(ordered), 1),
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)],
        "max": ordered[-1],
        "total": sum(ordered),
    }


@dataclass
class Measures:
    """Filled record by record with ``add``; ``report`` is the result."""

    count_tokens: TokenCount | None = None
    kinds: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    systems: int = 0
    lengths: dict[tuple[str, str], array] = field(default_factory=dict)
    wins: Counter[str] = field(default_factory=Counter)  # of the longer or shorter answer; "same"

    def _note(self, part: str, unit: str, value: int) -> None:
        self.lengths.setdefault((part, unit), array("q")).append(value)

    def add(self, record: Record) -> None:
        """Count and measure one record; a ranking's pairs count for which answer wins."""
        self.kinds[kind_name(record)] += 1
        prompt, answers = prompt_of(record), answers_of(record)
        turns = record.messages if isinstance(record, Demonstration) else prompt
        self.turns[sum(turn["role"] == "user" for turn in turns)] += 1
        self.systems += any(turn["role"] == "system" for turn in turns)
        names = ["chosen", "rejected"] if isinstance(record, Pair) else ["response"] * len(answers)
        parts = ["prompt", *names] if prompt else names
        opening = ["\n".join(turn["content"] for turn in prompt)] if prompt else []
        for part, text in zip(parts, opening + answers, strict=True):
            self._note(part, "characters", len(text))
            self._note(part, "words", len(text.split()))
        if self.count_tokens:
            in_prompt, in_answers = self.count_tokens(prompt, answers)
            counts = [in_prompt, *in_answers] if prompt else in_answers
            for part, tokens in zip(parts, counts, strict=True):
                self._note(part, "tokens", tokens)
        for pair in turn_into(record, Pair):
            longer = len(pair.chosen) - len(pair.rejected)
            self.wins["longer" if longer > 0 else "shorter" if longer < 0 else "same"] += 1

    def report(self) -> dict[str, Any]:
        """All figures, as JSON can hold them; "longer_wins" counts a tie in length as half."""
        result: dict[str, Any] = {
            "records": sum(self.kinds.values()),
            "kinds": dict(self.kinds),
            "user_turns": {str(turns): count for turns, count in sorted(self.turns.items())},
            "with_system": self.systems,
            "lengths": {},
        }
        for (part, unit), values in self.lengths.items():
            result["lengths"].setdefault(part, {})[unit] = _summary(values)
        if pairs := sum(self.wins.values()):
            longer = (self.wins["longer"] + self.wins["same"] / 2) / pairs
            low, high = wilson(longer * pairs, pairs)
            result["pairs"] = pairs
            result["same_length"] = self.wins["same"]
            result["longer_wins"] = {"share": longer, "low": low, "high": high}
            result["shorter_wins"] = {"share": 1 - longer, "low": 1 - high, "high": 1 - low}
        return result
