"""A judge that says what a test wants, in place of the one behind ``minialign judge``."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minialign.judge import JudgeOptions, ask
from minialign.judge import open as judges
from minialign.judge.verdict_files import read_verdicts
from minialign.records import Comparison, Verdict, to_json


class ScriptedJudge:
    """Prefers the longer answer; leans to the first shown when they are of nearly equal length.

    ``go`` lets it judge, ``delay`` is a verdict's time, after ``most`` verdicts it only waits to be
    stopped, ``fails`` is raised when it is opened.
    """

    def __init__(self, delay: float = 0.0):
        self.delay = delay
        self.most: int | None = None
        self.go = threading.Event()
        self.go.set()
        self.fails: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        self.judged = 0

    def install(self, monkeypatch: Any) -> "ScriptedJudge":
        """Be the judge of the app."""
        monkeypatch.setattr(judges, "open_judge", self.open)
        monkeypatch.setattr(ask, "judge_comparisons", self.judge_all)
        return self

    def open(self, spec: str, options: JudgeOptions, **more: Any) -> tuple[str, JudgeOptions]:
        """As ``judge.open.open_judge``."""
        if self.fails is not None:
            raise self.fails
        self.asked.append({"spec": spec, **asdict(options), **more})
        return spec, options

    def judge_all(
        self, opened: Any, pairs: Sequence[Comparison], *, file: Path | None = None,
        batch_size: int = 16, stop: threading.Event | None = None,
    ) -> Iterator[Verdict]:  # fmt: skip
        """As ``judge.ask.judge_comparisons``."""
        spec, options = opened
        assert file is not None
        known = read_verdicts(file)[0]
        for pair in pairs:
            if (verdict := known.get(pair.key)) is not None:
                yield verdict
                continue
            while not self.go.wait(0.01) or self.judged == self.most:
                if stop is not None and stop.is_set():
                    return
                time.sleep(0.001)
            if stop is not None and stop.is_set():
                return
            time.sleep(self.delay)
            verdict = self.verdict(pair, spec, options.template or "pairwise")
            self.judged += 1
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "a", encoding="utf-8") as out:
                out.write(json.dumps(to_json(verdict)) + "\n")
            yield verdict

    def verdict(self, pair: Comparison, spec: str, template: str, taste: float = 0.0) -> Verdict:
        """What it says of a pair; ``taste`` is added to what speaks for ``a``."""
        lean = (len(pair.a) - len(pair.b)) / (len(pair.a) + len(pair.b)) + taste
        first, second = (min(0.95, max(0.05, 0.5 + lean + push)) for push in (0.08, -0.08))
        orders: list[dict[str, Any]] = [
            {"a": round(p, 3), "b": round(1 - p, 3), "tie": 0.0} for p in (first, second)
        ]
        same = (first > 0.5) == (second > 0.5)
        choice = ("a" if first > 0.5 else "b") if same else "tie"
        if "nonsense" in pair.a:
            orders, choice = [{"unparsed": "I like both."}] * 2, "unparsed"
        told: dict[str, Any] = {"judge": spec, "template": template, "source": pair.source}
        return Verdict(pair.key, choice=choice, orders=orders, **told, **pair.sides)
