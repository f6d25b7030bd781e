"""Judges on the tiny model and pairs for them, for the tests of what judges say and keep."""

from pathlib import Path

import mlx.core as mx
import numpy as np

from minialign.judge import JudgeOptions
from minialign.judge.open import open_judge
from minialign.records import Comparison


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


PAIRS = [
    Comparison(asked("the quick brown fox?"), "jumps over the lazy dog", "no", source="f:1"),
    Comparison(asked("yes?"), "yes", "the fox and the dog and the fox and the dog", source="f:2"),
    Comparison(asked("the dog " * 30), "quick", "lazy", source="f:3"),
    Comparison(asked("fox?"), "same", "same", source="f:4"),
    Comparison(asked("brown?"), "the brown fox " * 12, "over the lazy dog " * 9, source="f:5"),
]


def opened(spec, engine=None, **options):
    return open_judge(spec, JudgeOptions(**options), engine=engine)


def order(a: float, b: float, tie: float = 0.0) -> dict[str, float]:
    return {"a": a, "b": b, "tie": tie, "mass": 1.0}


def table(model, ids: list[int]) -> np.ndarray:
    """(tokens, V) probabilities from whole logits."""
    logits = model.module(mx.array([ids]))[0].astype(mx.float32)
    return np.exp(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), np.float64))


def memory_of(home: Path, judge) -> Path:
    return home / "cache" / "judge" / f"{judge.identity}.jsonl"
