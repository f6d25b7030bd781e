"""What a comparison found: a row for each method, intervals, and where proxy and gold part ways.

Answers are paired: every policy answers the same held-out prompts with the same seeds, so what is
bootstrapped is the difference to the start policy, prompt by prompt. Prompts and seeds are drawn
each for themselves (crossed), so neither a lucky prompt nor a lucky seed makes a method better.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minialign.compare.answers import PHASES, SCORES
from minialign.compare.plan import Part, Plan
from minialign.compare.process import record_of
from minialign.compare.run import is_done
from minialign.durable import read_jsonl, read_object
from minialign.samples.best_of_n import curve, kl_bound
from minialign.statistics.bootstrap import Interval, mean_interval, quantiles, resamples
from minialign.statistics.shares import wilson

START = "SFT policy"
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Row:
    """One method, over all its seeds; intervals are (estimate, low, high), 95 %."""

    method: str
    command: str
    seeds: int
    gold: Interval
    difference: Interval  # to the start policy, in gold reward
    verdict: str  # "better", "worse" or "no difference shown"
    proxy: float
    win_rate: Interval  # against the start policy by gold score, ties half
    kl: float  # nats an answer from the start policy; best-of-n: at most
    words: float
    tokens: float  # used of the budget, a seed; best-of-n: written for one answer
    seconds: float  # of the processes that trained and sampled, a seed
    peak_memory: float


def crossed_interval(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean of (S, P) values, S seeds on P prompts, with its interval over both."""
    if len(values) == 1:
        return mean_interval(values[0].tolist(), seed=seed)
    seeds, prompts = resamples(len(values), seed), resamples(values.shape[1], seed + 1)
    drawn = np.einsum("rs,sp,rp->r", seeds, values, prompts) / values.size
    return float(values.mean()), *quantiles(drawn)


def verdict(difference: Interval) -> str:
    """Better or worse only when the interval of the difference says so."""
    _, low, high = difference
    return "better" if low > 0 else "worse" if high < 0 else NO_DIFFERENCE


def win_rate(own: np.ndarray, start: np.ndarray) -> Interval:
    """How often (S, P) scores are above the start policy's, ties half."""
    wins = (own > start) + 0.5 * (own == start)
    mean, low, high = crossed_interval(wins)
    if low == high:  # all won, or all lost: that is no certainty
        low, high = wilson(mean * wins.shape[1], wins.shape[1])
    return mean, low, high


def _scores(part: Part) -> dict[str, np.ndarray]:
    if part.kind == "answers":
        scores = read_object(part.folder / SCORES)
        return {name: np.array(values) for name, values in scores.items()}
    rows = sorted(read_jsonl(part.result), key=lambda row: row["prompt_index"])
    best = [row["best_index"] for row in rows]
    return {
        "gold": np.array([row["gold_scores"][i] for row, i in zip(rows, best, strict=True)]),
        "proxy": np.array([row["scores"][i] for row, i in zip(rows, best, strict=True)]),
        "words": np.array([len(row["best"].split()) for row in rows]),
        "tokens_each": np.array([sum(row["tokens"]) for row in rows]),
    }


def _scores_by_seed(made: Plan, method: str) -> dict[int, dict[str, np.ndarray]]:
    """A method's scores by seed, as far as they are there."""
    scores = {}
    for seed in made.one.top.seeds:
        for name in (f"{method}-s{seed}-answers", f"{method}-s{seed}"):
            part = made.parts.get(name)
            if part and part.kind != "train" and is_done(part):
                scores[seed] = _scores(part)
    return scores


def rows(made: Plan) -> list[Row]:
    """A row for the start policy, and one for each method that has answered."""
    start = _scores_by_seed(made, "start")
    table = []
    for method in ("start", *made.one.kinds):
        judged = _scores_by_seed(made, method)
        seeds = [seed for seed in judged if seed in start]
        if not seeds:
            continue
        names = judged[seeds[0]]
        values = {name: np.stack([judged[seed][name] for seed in seeds]) for name in names}
        base = np.stack([start[seed]["gold"] for seed in seeds])
        difference = crossed_interval(values["gold"] - base)
        cost = [_cost(made, method, seed) for seed in seeds]
        kl = kl_bound(made.one.sampling.best_of)
        if "logps" in values:
            kl = float((values["logps"] - values["reference_logps"]).mean())
        table.append(
            Row(
                method=START if method == "start" else method,
                command="sft" if method == "start" else made.one.kinds[method].command,
                seeds=len(seeds),
                gold=crossed_interval(values["gold"]),
                difference=difference,
                verdict="" if method == "start" else verdict(difference),
                proxy=float(values["proxy"].mean()),
                win_rate=win_rate(values["gold"], base),
                kl=kl,
                words=float(values["words"].mean()),
                tokens=float(np.mean(values.get("tokens_each", [one["tokens"] for one in cost]))),
                seconds=float(np.mean([one["seconds"] for one in cost])),
                peak_memory=max(one["peak_memory"] for one in cost),
            )
        )
    return table


def _cost(made: Plan, method: str, seed: int) -> dict[str, float]:
    """Tokens, seconds and peak memory of a method's training with the sampling charged to it."""
    part = made.parts["start" if method == "start" else f"{method}-s{seed}"]
    records = [record_of(made.parts[name]) for name in (part.name, part.charged) if name]
    return {
        "tokens": sum(one.get("tokens", 0) for one in records),
        "seconds": sum(one.get("seconds", 0.0) for one in records),
        "peak_memory": max(one.get("peak_memory", 0) for one in records),
    }


def over_optimization(made: Plan) -> dict[str, list[dict[str, float]]]:
    """Gold and proxy reward along the KL: best-of-n for n = 1 … N on the held-out prompts (the
    bound log n - (n - 1) / n), and each run that answers while it trains, phase by phase."""
    lines: dict[str, list[dict[str, float]]] = {}
    for method, kind in made.one.kinds.items():
        parts = [made.parts[f"{method}-s{seed}"] for seed in made.one.top.seeds]
        if not kind.rows:
            sampled = [row for part in parts if is_done(part) for row in read_jsonl(part.result)]
            if sampled:
                columns = [[row[key] for row in sampled] for key in ("scores", "gold_scores")]
                lines[method] = [asdict(point) for point in curve(*columns)]
        for seed in made.one.top.seeds:
            part = made.parts.get(f"{method}-s{seed}-answers")
            if part and is_done(part):
                several = len(made.one.top.seeds) > 1
                if phases := json.loads((part.folder / PHASES).read_text(encoding="utf-8")):
                    lines[f"{method}, seed {seed}" if several else method] = phases
    return lines


def results(made: Plan, failed: dict[str, str]) -> dict[str, Any]:
    """Everything, for JSON."""
    one = made.one
    taken = ("tokens", "seconds", "peak_memory")
    start = _scores_by_seed(made, "start").values()
    prepared = {
        part.name: {key: record_of(part).get(key) for key in taken}
        for part in made.parts.values()
        if part.kind != "answers" and not part.method
    }
    return {
        "config": str(one.file.path),
        "model": one.top.model,
        "seeds": list(one.top.seeds),
        "prompts": max((len(scores["gold"]) for scores in start), default=0),
        "gold": one.scorers.gold,
        "proxy": one.scorers.proxy,
        "budget": asdict(one.budget),
        "methods": [asdict(row) for row in rows(made)],
        "over_optimization": over_optimization(made),
        "prepared": prepared,
        "failed": failed,
        "parts": {part.name: str(part.folder) for part in made.parts.values()},
    }
