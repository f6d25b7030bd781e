"""Best-of-n over a file of prompts: every candidate with its score, on disk as it is known."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minialign.data.prompts import Question, prompted
from minialign.durable import Journal
from minialign.engine import Engine, Sampling
from minialign.engine.next_token import sample_seed
from minialign.errors import UserError
from minialign.rewards.scorer import Scorer
from minialign.samples.generate import resume_rows
from minialign.samples.groups import Group, groups
from minialign.samples.selection import Point, curve

Row = dict[str, Any]


def row(group: Group, scorer: Scorer, gold: Scorer | None = None, origin: Row | None = None) -> Row:
    """The JSON object of a prompt: responses, scores, which is best (of ties the first). Data
    readers take it for a ranking."""
    prompt, texts = prompted(group.question), group.texts
    scores = scorer.score(prompt, texts)
    best = scores.index(max(scores))
    judged = {"gold_scores": gold.score(prompt, texts), "gold": gold.name} if gold else {}
    return {
        "prompt": group.question.prompt,
        "responses": texts,
        "scores": scores,
        "best": texts[best],
        "best_index": best,
        "scorer": scorer.name,
        **judged,
        "prompt_index": group.index,
        "seeds": [sample.seed for sample in group.samples],
        "tokens": [len(sample.ids) for sample in group.samples],
        "finish_reasons": [sample.finish_reason for sample in group.samples],
        **(origin or {}),
        **({"extra": group.question.extra} if group.question.extra else {}),
    }


def resume(
    path: Path,
    asked: Sequence[Question],
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

    other = UserError(
        "not of these prompts with this n, seed, adapter and these scorers",
        "resume with what the file was made with, or choose another file",
    )
    return resume_rows(path, is_wanted, other, other)


def best_of_n(
    engine: Engine,
    asked: Sequence[Question],
    scorer: Scorer,
    n: int,
    sampling: Sampling,
    *,
    gold: Scorer | None = None,
    seed: int = 0,
    batch_size: int = 16,
    done: Sequence[Row] = (),
    origin: Row | None = None,
) -> Iterator[Row]:
    """A row for each prompt that is not in ``done``, as soon as its samples are scored."""
    skip = frozenset(one["prompt_index"] for one in done)
    for group in groups(engine, asked, n, sampling, seed, batch_size, skip):
        yield row(group, scorer, gold, origin)


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
