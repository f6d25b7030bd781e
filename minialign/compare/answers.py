"""One policy's answers to the held-out prompts, and what two scorers and two policies say of them.

This is the only part of a comparison that is no ordinary command: ``minialign compare --answers
SPEC.json``. Answers are on disk as they come, so a part that is killed asks nothing twice.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minialign.data.prompts import read_prompts
from minialign.durable import read_jsonl, write_atomic
from minialign.engine import Engine, Sampling
from minialign.engine.open import open_engine
from minialign.errors import UserError
from minialign.learn.batch import Example, collate, encode_prompt, index_batches
from minialign.methods.ppo import token_values
from minialign.progress import Progress
from minialign.records import Prompted
from minialign.rewards.scorer import Scorer
from minialign.samples import generate
from minialign.scoring.open import open_scorer

ANSWERS, SCORES, PHASES = "answers.jsonl", "scores.json", "phases.json"


def judge(spec: Path) -> Iterator[Progress]:
    """Answer, score, and write ``scores.json``: gold, proxy, logps, reference_logps, tokens and
    words, a number for each prompt. Log-probs are of the very tokens that were drawn, the end token
    where there is one, in nats.

    Raises:
        UserError: for a spec that is none, or an adapter or scorer that cannot be opened.
    """
    try:
        told = json.loads(spec.read_text(encoding="utf-8"))
        asked = read_prompts(told["prompts"])[: told["limit"] or None]
        drawn = told["sampling"]
        sampling = Sampling(drawn["temperature"], drawn["top_p"], max_tokens=drawn["max_tokens"])
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise UserError(f"{spec}: {reason!r}", "the comparison writes this file") from None
    folder = spec.parent
    engine = open_engine(told["model"], told["adapter"])
    rows: dict[int, dict[str, Any]] = {}
    for rows in _answered(engine, asked, sampling, told["seed"], drawn["batch_size"], folder):
        yield Progress("answers", len(rows), len(asked))
    ordered = [rows[i] for i in range(len(asked))]
    values: dict[str, list[float]] = {"logps": _logps(engine, asked, ordered, sampling.temperature)}
    yield Progress("log-probs", 1, 2)
    reference = open_engine(told["model"], told["reference"])
    values["reference_logps"] = _logps(reference, asked, ordered, sampling.temperature)
    yield Progress("log-probs", 2, 2)
    for name in ("proxy", "gold"):
        scorer = open_scorer(told[name], engine=reference)
        values[name] = []
        for prompted, row in zip(asked, ordered, strict=True):
            values[name] += scorer.score(prompted, [row["response"]])
            yield Progress(f"{name} scores", len(values[name]), len(asked))
    values["tokens"] = [len(row["ids"]) for row in ordered]
    values["words"] = [len(row["response"].split()) for row in ordered]
    scorer = open_scorer(told["gold"], engine=reference)
    write_atomic(folder / PHASES, json.dumps(_phases(told, scorer)) + "\n")
    write_atomic(folder / SCORES, json.dumps(values) + "\n")


def _answered(
    engine: Engine, asked: list[Prompted], sampling: Sampling, seed: int, size: int, folder: Path
) -> Iterator[dict[int, dict[str, Any]]]:
    """The answers by prompt, as they become more; those on disk are not written again."""
    file = folder / ANSWERS
    journal, waiting = generate.resume(file, asked, generate.plan_requests(engine, asked, 1, seed))
    rows = journal.known("prompt_index")
    yield rows
    for completion, row in generate.write_answers(engine, asked, waiting, sampling, size):
        rows[completion.prompt_index] = row | {"ids": completion.ids}
        journal.append(rows[completion.prompt_index])
        yield rows


def _logps(
    engine: Engine, asked: list[Prompted], rows: list[dict[str, Any]], temperature: float
) -> list[float]:
    """The log-prob of each answer's tokens, as this engine's policy would draw them at that
    temperature (without filters)."""
    examples = [
        Example(encode_prompt(one.prompt, engine.tokenizer), [row["ids"]], [[1] * len(row["ids"])])
        for one, row in zip(asked, rows, strict=True)
    ]
    sums: dict[int, float] = {}
    for indices in index_batches([example.length for example in examples], 8, 0, 0):
        flat, _ = token_values(engine.policy, collate([examples[i] for i in indices]), temperature)
        numbers = iter(np.array(flat, np.float64).tolist())
        sums |= {i: sum(next(numbers) for _ in rows[i]["ids"]) for i in indices}
    return [sums[i] for i in range(len(rows))]


def _phases(told: dict[str, Any], gold: Scorer) -> list[dict[str, float]]:
    """Of a run that answers while it trains (PPO), phase by phase: the means of gold and proxy
    reward and of the KL, over the answers that the run kept; [] for any other run."""
    rows = list(read_jsonl(Path(told["adapter"]) / "samples.jsonl"))
    known = {json.dumps(one.prompt): one for one in read_prompts(told["train"])}
    for row in rows:
        asked = known.get(json.dumps(row["prompt"]), Prompted(row["prompt"]))
        row["gold"] = gold.score(asked, [row["response"]])[0]
    phases = []
    for number in sorted({row["phase"] for row in rows}):
        kept = [row for row in rows if row["phase"] == number]
        columns = {"gold": "gold", "proxy": "reward", "kl": "kl"}
        means = {name: sum(row[key] for row in kept) / len(kept) for name, key in columns.items()}
        phases.append({**means, "phase": number, "answers": len(kept)})
    return phases
