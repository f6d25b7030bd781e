"""What a round trains: the rows selected from its candidates, and an ordinary training run on them.

The reference, where there is one, is the policy as the round starts or as the run started.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import mlx.core as mx

from minialign import formats
from minialign.durable import json_line, read_jsonl, write_atomic
from minialign.errors import UserError
from minialign.formats.kinds import row_of
from minialign.methods import Method
from minialign.models.adapter import CONFIG, attach, save_adapter
from minialign.models.load import load
from minialign.records import Demonstration, Ranking, Record, noted
from minialign.run_folder import Run
from minialign.training import offline
from minialign.training.events import Ended, Event
from minialign.training.lifecycle import Driver, resume_with, start_with
from minialign.training.rounds.candidates import Job, Row, Stopped
from minialign.training.settings import Settings


def select(job: Job, k: int, rows: Sequence[Row]) -> int:
    """Write the rows that round k trains on, unless they are there; returns how many were selected.

    Raises:
        UserError: when in the first round nothing is.
    """
    path = job.file(f"train-{k}.jsonl")
    chance = random.Random(f"{job.settings.seed} {k}")
    chosen: list[Record] = []
    for row in rows:
        ends = row["finish_reasons"]
        each = zip(row["scores"], ends, strict=True)
        scores = [score - job.plan.eos_penalty * (end == "length") for score, end in each]
        ranking = Ranking(row["prompt"], row["responses"], scores, finish_reasons=noted(ends))
        chosen += job.rounds.select(ranking, job.config, chance)
    if not chosen and k == 1:
        scores = sorted(score for row in rows for score in row["scores"])
        said = f"nothing to learn: in {len(rows)} prompts no candidate was selected; the scores are"
        fix = "more candidates (--n), a higher --temperature, or a scorer that tells them apart"
        raise UserError(f"{said} {scores[0]:g} to {scores[-1]:g}", fix)
    count = len(chosen)
    if count and not path.exists():
        if mixed := read_demonstrations(job):
            share = job.config.mix_share
            chosen += chance.sample(mixed, min(len(mixed), round(count * share / (1 - share))))
        write_atomic(path, "".join(json_line(row_of(record)) for record in chosen))
    return count


def read_demonstrations(job: Job) -> list[Demonstration]:
    """The demonstrations of ``--mix``."""
    rows: list[Demonstration] = []
    for path in getattr(job.config, "mix", ()):
        read = formats.read(path)
        if read.problems:
            raise UserError(str(read.problems[0]), "mend the row, or take it out")
        rows += formats.as_kind(read.records, Demonstration)[0]
    return rows


def on_rows(method: Method) -> Driver:
    """What drives the training of a round, whatever its method."""
    return offline.events


def train(job: Job, k: int) -> Iterator[Event]:
    """The training run of round k, to its end."""
    folder, stop = job.file(f"round-{k}"), job.stop
    job.check_stop(f"before the training of round {k}")
    job.close()
    if not (folder / "config.json").exists():
        trains, config = job.rounds.trains, job.rounds.train_config(job.config)
        inner, events = start_with(on_rows, trains, _settings(job, k), config, stop)
    else:
        inner = Run(folder)
        if inner.state().status == "finished":
            return
        events = resume_with(on_rows, inner, stop)
    for event in events:
        if not isinstance(event, Ended):
            yield replace(event, values={**event.values, "round": k})
    if inner.state().status != "finished":
        raise Stopped(f"in the training of round {k}")


def _settings(job: Job, k: int) -> Settings:
    """What the training run of round k is told."""
    settings, used = job.settings, job.used()
    data = job.file(f"train-{k}.jsonl")
    own: dict[str, Any] = {}
    if settings.max_tokens or settings.max_minutes:  # a cap here, and no reason to train longer
        each = settings.batch_size * settings.grad_accumulation_steps
        count = len(list(read_jsonl(data)))
        own["iters"] = settings.iters or max(1, round(settings.epochs * ceil(count / each)))
        if settings.max_tokens:
            own["max_tokens"] = max(1, settings.max_tokens - round(used["tokens"]))
        if settings.max_minutes:
            own["max_minutes"] = max(1e-6, settings.max_minutes - used["seconds"] / 60)
    before = job.policy(0 if job.rounds.fresh(job.config) else k - 1)
    if job.rounds.fixed_reference(job.config):
        first = origin(job)
        before = before or first
        own["reference_adapter"] = None if before == first else first
    own |= {"data": (str(data),), "eval_data": (), "eval_split": 0.0, "adapter": before}
    own |= {"out": str(job.file(f"round-{k}")), "seed": settings.seed + k}
    return replace(settings, name=None, select="last", **own)


def origin(job: Job) -> str:
    """The adapter that the run starts from; of the bare model a fresh one, without effect yet."""
    if job.settings.adapter:
        return job.settings.adapter
    folder = job.file("start")
    if not (folder / CONFIG).exists():
        folder.mkdir(exist_ok=True)
        model, lora = load(job.settings.model), job.settings.lora()
        mx.random.seed(job.settings.seed)
        attach(model.module, lora)
        save_adapter(folder, model.module, lora, str(model.path))
    return str(folder)
