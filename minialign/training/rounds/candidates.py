"""What a round samples: candidates to train on and answers to held-out prompts, each with a score.

They are appended to files in the run's ``rounds/`` as they come, and what is there is never made
again. The policy of round k is that before any training (0), or what the k-th training run gave.
"""

import gc
import random
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from minialign.data.hold_out import hold_out
from minialign.data.prompts import read_prompts
from minialign.durable import read_jsonl
from minialign.engine import Engine
from minialign.engine.next_token import sample_seed
from minialign.engine.open import open_engine
from minialign.errors import UserError
from minialign.formats.kinds import digest, opening_of
from minialign.learn.batch import encode_prompt
from minialign.methods import Method
from minialign.methods.method import Rounds
from minialign.methods.rounds import RoundSettings
from minialign.progress import Pace, Progress
from minialign.records import Prompted
from minialign.rewards.scorer import Scorer
from minialign.run_folder import Run
from minialign.samples import best_of_n
from minialign.samples.groups import sample_groups
from minialign.scoring.open import open_scorer
from minialign.training.budget import spent, tokens_read
from minialign.training.events import Event, Note, Sampled
from minialign.training.settings import Settings

Row = dict[str, Any]


class Stopped(Exception):
    """The user asked to stop; what was reached."""


@dataclass
class Job:
    """A run of rounds at work."""

    run: Run
    method: Method
    settings: Settings
    config: Any
    stop: threading.Event
    prompts: list[Prompted] = field(default_factory=list)
    held_out: list[Prompted] = field(default_factory=list)
    open: tuple[int, Engine, Scorer] | None = None  # of which policy
    peak: int = 0  # bytes, of sampling

    @property
    def plan(self) -> RoundSettings:
        """How candidates are sampled and scored."""
        return self.config.plan

    @property
    def rounds(self) -> Rounds:
        """What the method does in a round."""
        assert self.method.rounds
        return self.method.rounds

    def file(self, name: str) -> Path:
        """A path among the run's rounds."""
        return self.run.path / "rounds" / name

    def policy(self, k: int) -> str | None:
        """The adapter of the policy behind round k; None for the bare model."""
        return str(self.file(f"round-{k}")) if k else self.settings.adapter

    def models(self, k: int) -> tuple[Engine, Scorer]:
        """The policy behind round k and the scorer; the last ones are closed before."""
        if self.open is None or self.open[0] != k:
            self.close()
            engine = open_engine(self.settings.model, self.policy(k))
            self.open = k, engine, open_scorer(self.plan.scorer, engine=engine)
        return self.open[1:]

    def close(self) -> None:
        """Give the memory of the policy and the scorer back, before training takes its own."""
        if self.open is not None:
            self.peak = max(self.peak, mx.get_peak_memory())
        self.open = None
        gc.collect()
        mx.clear_cache()

    def check_stop(self, reached: str) -> None:
        """Raise ``Stopped`` when that is asked for."""
        if self.stop.is_set():
            raise Stopped(reached)

    def used(self) -> dict[str, float]:
        """Tokens and seconds of all sampling and training so far, from the files."""
        rows = [row for f in self.file("").glob("candidates-*.jsonl") for row in read_jsonl(f)]
        rows = [{"tokens": row["used"], "seconds": row["seconds"]} for row in rows]
        rows += [row for f in self.file("").glob("round-*") for row in Run(f).metrics("train")]
        return {name: sum(row[name] for row in rows) for name in ("tokens", "seconds")}


def read_asked(job: Job) -> None:
    """Read the prompts to train on and the held-out ones; no prompt is among both."""

    def read(paths: Sequence[str]) -> list[Prompted]:
        return [one for path in paths for one in read_prompts(path, job.plan.system)]

    records = read(job.settings.data)
    held: list[Any] = read(job.settings.eval_data)
    if held:
        known = {digest(opening_of(one)) for one in held}
        kept: list[Any] = [one for one in records if digest(opening_of(one)) not in known]
    else:
        parts: Any = hold_out(records, job.settings.eval_split, job.settings.seed)
        kept, held = parts
    if not kept:
        raise UserError("no prompts are left to train on", "they are all among the held-out ones")
    if not held and job.settings.select == "best":
        raise UserError("select = best needs held-out prompts", "--eval-data FILE")
    job.prompts, job.held_out = list(kept), list(held)


def _sample(
    job: Job, k: int, what: str, asked: Sequence[Prompted], n: int, seed: int, path: Path
) -> Generator[Event, None, list[Row]]:
    """The scored samples of the policy behind round k, from the file or fresh, by prompt."""
    job.check_stop(f"before {what}")
    journal = best_of_n.resume(path, asked, n, job.plan.scorer, seed=seed)
    rows = journal.rows
    limited = what.endswith("candidates") and (job.settings.max_tokens or job.settings.max_minutes)
    before = job.used() if limited else {}
    if len(rows) < len(asked):
        engine, scorer = job.models(k)
        known = [row["prompt_index"] for row in rows]
        how = job.plan.sampling(), seed, job.plan.rollout_batch
        pace, last = Pace(first=len(rows)), time.monotonic()
        for group in sample_groups(engine, asked, n, *how, skip=known):
            row = best_of_n.score_group(group, scorer)
            prompt = len(encode_prompt(group.asked.prompt, engine.tokenizer))
            made = sum(row["tokens"])
            row["used"] = prompt + made + tokens_read(scorer.name, n, prompt, made)
            now = time.monotonic()
            row["seconds"], last = now - last, now
            journal.append(row)
            at = Progress(what, len(rows), len(asked))
            values = {"eta": pace.seconds_left(at), "policy": k}
            yield Sampled(f"{what}: {at.done}/{at.total} prompts", at.done, at.total, values)
            if limited:
                before["tokens"] += row["used"]
                before["seconds"] += row["seconds"]
                if spent(job.settings, **before):
                    break
            if at.done < at.total:
                job.check_stop(f"in {what}, {at.done} of {at.total} prompts")
    return sorted(rows, key=lambda row: row["prompt_index"])


def sample_candidates(job: Job, k: int) -> Generator[Event, None, list[Row]]:
    """The candidates of round k, which the policy behind the round before writes."""
    asked, count = job.prompts, job.plan.prompts_per_round
    if 0 < count < len(asked):
        order = random.Random(job.settings.seed).sample(range(len(asked)), len(asked))
        asked = [asked[order[(k * count - count + i) % len(asked)]] for i in range(count)]
    seed = sample_seed(job.settings.seed, k, 0)
    path = job.file(f"candidates-{k}.jsonl")
    what = f"round {k}, candidates"
    return (yield from _sample(job, k - 1, what, asked, job.plan.n, seed, path))


def measure(job: Job, k: int) -> Iterator[Event]:
    """The policy behind round k on the held-out prompts, with the same seeds for every k."""
    if not job.held_out or k in [row["step"] for row in job.run.metrics("eval")]:
        return
    seed, path = sample_seed(job.settings.seed, 0, 1), job.file(f"heldout-{k}.jsonl")
    what = f"held-out prompts after round {k}" if k else "held-out prompts, before"
    rows = yield from _sample(job, k, what, job.held_out, job.plan.heldout_n, seed, path)
    values = rewards(rows)
    job.run.log("eval", k, values)
    text = f"held out, {f'after round {k}' if k else 'before'}: reward {reward_text(values)}"
    yield Note(text, k, values=values)


def rewards(rows: Sequence[Row]) -> dict[str, float]:
    """The mean score, the mean of each prompt's best, the mean's standard error, and the share of
    answers that ended in time: of the others no end is learned."""
    means = [float(np.mean(row["scores"])) for row in rows]
    error = float(np.std(means, ddof=1)) / len(means) ** 0.5 if len(means) > 1 else 0.0
    tokens = [count for row in rows for count in row["tokens"]]
    ended = [reason != "length" for row in rows for reason in row["finish_reasons"]]
    return {
        "reward/mean": float(np.mean(means)),
        "reward/best": float(np.mean([max(row["scores"]) for row in rows])),
        "reward/error": error,
        "response_length": float(np.mean(tokens)),
        "ended": float(np.mean(ended)),
        "prompts": len(rows),
    }


def reward_text(values: dict[str, float]) -> str:
    """What is said of the rewards of a round."""
    best = f"best {values['reward/best']:.4g}, {100 * values['ended']:.0f} % ended"
    return f"{values['reward/mean']:.4g} ± {values['reward/error']:.2g}, {best}"
