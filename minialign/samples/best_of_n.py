"""Best-of-n over a file of prompts: every candidate with its score, on disk as it is known."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minialign.durable import whole_lines
from minialign.engine import Engine, Sampling
from minialign.engine.next_token import sample_seed
from minialign.errors import UserError
from minialign.records import Prompted
from minialign.rewards.scorer import Scorer
from minialign.samples.groups import Group, groups
from minialign.samples.selection import Point, curve

Row = dict[str, Any]


def row(group: Group, scorer: Scorer, gold: Scorer | None = None, origin: Row | None = None) -> Row:
    """The JSON object of a prompt: responses, scores, which is best (of ties the first). Data
    readers take it for a ranking."""
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
        "finish_reasons": [sample.finish_reason for sample in group.samples],
        **(origin or {}),
        **({"extra": asked.extra} if asked.extra else {}),
    }


def on_disk(
    path: Path,
    asked: Sequence[Prompted],
    n: int,
    scorer: str,
    gold: str | None = None,
    *,
    seed: int,
    adapter: str | None = None,
) -> list[Row]:
    """The rows that a file has already of these scorers, this seed and this adapter; a last line
    cut by a kill is taken away.

    Raises:
        UserError: when it holds something else.
    """
    rows: list[Row] = []
    for where, line in whole_lines(path):
        try:
            found = json.loads(line)
            index = found["prompt_index"]
            same = (
                found["prompt"] == asked[index].prompt
                and found["seeds"] == [sample_seed(seed, index, i) for i in range(n)]
                and (found["scorer"], found.get("gold")) == (scorer, gold)
                and found.get("adapter") == adapter
            )
        except (ValueError, KeyError, TypeError, IndexError):
            same = False
        if not same:
            raise UserError(
                f"{where}: not of these prompts with this n, seed, adapter and these scorers",
                "resume with what the file was made with, or choose another file",
            )
        rows.append(found)
    return rows


def best_of_n(
    engine: Engine,
    asked: Sequence[Prompted],
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
