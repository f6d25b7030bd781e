"""Best-of-n over a file of prompts: every candidate with its score, and what n buys.

What the best of n samples is worth is known from N >= n samples: Nakano et al. 2021
(arXiv:2112.09332) appendix I, the mean over all subsets of n of the N samples of the score that
would be chosen, without enumerating them. How far it goes: Stiennon et al. 2020 (arXiv:2009.01325)
appendix G.3, KL(best-of-n || policy) <= log n - (n - 1) / n, which is what it is when no two
responses tie.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minialign.durable import Journal
from minialign.engine.next_token import sample_seed
from minialign.errors import UserError
from minialign.records import Prompted
from minialign.rewards.scorer import Scorer
from minialign.samples.generate import resume_rows
from minialign.samples.groups import Group

Row = dict[str, Any]


def score_group(
    group: Group, scorer: Scorer, gold: Scorer | None = None, origin: Row | None = None
) -> Row:
    """Score a prompt's samples; the row says which is best (of ties the first). Data readers take
    it for a ranking."""
    asked, texts = group.asked, group.texts
    scores = scorer.score(asked, texts)
    best = scores.index(max(scores))
    judged = {"gold_scores": gold.score(asked, texts), "gold": gold.name} if gold else {}
    return {
        "prompt": asked.prompt,
        "responses": texts,
        "scores": scores,
        "best": texts[best],
        "best_index": best,
        "scorer": scorer.name,
        **judged,
        "prompt_index": group.index,
        "seeds": [sample.seed for sample in group.samples],
        "tokens": [len(sample.ids) for sample in group.samples],
        "finish_reasons": group.finish_reasons,
        **(origin or {}),
        **({"extra": asked.extra} if asked.extra else {}),
    }


def resume(
    path: Path,
    asked: Sequence[Prompted],
    n: int,
    scorer: str,
    gold: str | None = None,
    *,
    seed: int,
    adapter: str | None = None,
) -> Journal:
    """The journal of a file of such rows, all of these scorers, this seed and this adapter.

    Raises:
        UserError: when it holds something else.
    """

    def is_wanted(row: Row) -> bool:
        index = row["prompt_index"]
        return (
            row["prompt"] == asked[index].prompt
            and row["seeds"] == [sample_seed(seed, index, i) for i in range(n)]
            and (row["scorer"], row.get("gold")) == (scorer, gold)
            and row.get("adapter") == adapter
        )

    said = "not of these prompts with this n, seed, adapter and these scorers"
    other = UserError(said, "resume with what the file was made with, or choose another file")
    return resume_rows(path, is_wanted, other, other)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Best-of-n for every n up to N, and what a prompt cost."""
    gold = [one["gold_scores"] for one in rows] if all("gold_scores" in r for r in rows) else None
    points: list[Point] = curve([one["scores"] for one in rows], gold)
    return {
        "prompts": len(rows),
        "n": points[-1].n,
        "scorer": rows[0]["scorer"],
        **({"gold": rows[0]["gold"]} if gold else {}),
        "tokens_per_prompt": sum(sum(one["tokens"]) for one in rows) / len(rows),
        "points": [
            {key: value for key, value in asdict(point).items() if value is not None}
            for point in points
        ],
    }


@dataclass(frozen=True)
class Point:
    """Best-of-n over all prompts, for one n."""

    n: int
    kl: float  # the bound, in nats
    proxy: float  # mean score by which the best is chosen
    proxy_error: float  # its standard error over prompts; 0 for a single prompt
    gold: float | None = None  # mean of another score of the same choices
    gold_error: float | None = None


def kl_bound(n: int) -> float:
    """log n - (n - 1) / n, in nats."""
    return math.log(n) - (n - 1) / n


def weights(count: int, n: int) -> np.ndarray:
    """(count,): how likely each sample, in ascending order of score, is the best of n of them
    drawn without replacement: C(i - 1, n - 1) / C(count, n) for the i-th."""
    most = math.comb(count, n)
    return np.array([math.comb(i, n - 1) / most for i in range(count)])


def expected_best(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """The expected score of the best of n samples, unbiased, from N >= n of them.

    Args:
        values: another score of the same samples; its expectation for the samples chosen by
            ``scores`` (ties are chosen among at random).

    Raises:
        ValueError: when n is not one of 1 … N.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"the best of {n} out of {len(scores)} samples")
    order = np.argsort(scores, kind="stable")
    ranked = np.asarray(scores, np.float64)[order]
    chances = weights(len(ranked), n)
    if values is None:
        return float(chances @ ranked)
    _, group = np.unique(ranked, return_inverse=True)
    chances = (np.bincount(group, chances) / np.bincount(group))[group]
    return float(chances @ np.asarray(values, np.float64)[order])


def curve(
    scores: Sequence[Sequence[float]], gold: Sequence[Sequence[float]] | None = None
) -> list[Point]:
    """Best-of-n for n = 1 … N, over prompts with N samples each (N is that of the fewest)."""
    points = []
    for n in range(1, min(map(len, scores)) + 1):
        proxy = [expected_best(row, n) for row in scores]
        point = [n, kl_bound(n), *_mean(proxy)]
        if gold is not None:
            pairs = zip(scores, gold, strict=True)
            point += _mean([expected_best(row, n, values) for row, values in pairs])
        points.append(Point(*point))  # type: ignore[arg-type]
    return points


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard error)."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(np.mean(values)), error
