"""The one loop of rounds: sample, score, select, train, measure, and again with what was trained.

In the run's folder lies ``rounds/``: the candidates of each round with their scores, the rows that
were selected of them, the training run of each round, and the answers to held-out prompts. What is
there is never made again, so a run that is killed anywhere goes on where it was.
"""

import shutil
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from minialign.durable import read_object, write_json
from minialign.methods import Method
from minialign.models.adapter import CONFIG, WEIGHTS, resolve_adapter
from minialign.models.control import FILE as CONTROL
from minialign.run_folder import Run
from minialign.training import memory
from minialign.training.budget import spent
from minialign.training.events import Ended, Event, Note
from minialign.training.rounds import candidates, update
from minialign.training.rounds.candidates import Job, Row, Stopped, reward_text, rewards
from minialign.training.settings import Settings


def events(
    run: Run, method: Method, settings: Settings, config: Any, stop: threading.Event
) -> Iterator[Event]:
    """Everything that happens in a run of rounds, which goes on where its files are.

    Raises:
        UserError: for prompts, demonstrations, models or scorers that cannot be used.
    """
    job = Job(run, method, settings, config, stop)
    try:
        yield from _rounds(job)
    except Stopped as reached:
        run.finish("stopped", str(reached))
        yield Ended({"status": "stopped"})
    finally:
        job.close()


def _rounds(job: Job) -> Iterator[Event]:
    settings, plan = job.settings, job.plan
    budget = settings.max_tokens or settings.max_minutes
    total = plan.rounds or (0 if budget else job.rounds.usual)
    job.run.set_total(total)
    candidates.read_asked(job)
    update.read_demonstrations(job)  # what is wrong with them is said before anything is sampled
    job.file("").mkdir(exist_ok=True)
    of = f"{total} round{'s' * (total != 1)}" if total else "rounds within the budget"
    held = f", {len(job.held_out)} held out" if job.held_out else ""
    yield Note(f"{len(job.prompts)} prompts{held}; {of}, {plan.n} candidates a prompt")
    k, ended = 0, ""
    while True:
        yield from candidates.measure(job, k)
        begun = job.file(f"round-{k + 1}").exists()  # then the budget allowed it
        ended = "" if begun else spent(settings, **job.used())
        if ended or k == total > 0:
            break
        rows = yield from candidates.sample_candidates(job, k + 1)
        ended = "" if begun else spent(settings, **job.used())
        kept = 0 if ended else update.select(job, k + 1, rows)
        if not kept:
            ended = ended or f"round {k + 1}: no candidate was selected"
            break
        k += 1
        yield from update.train(job, k)
        yield from _log(job, k, rows, kept)
    if ended:
        yield Note(f"{ended}: finished")
    yield _finish(job, k, ended)


def _log(job: Job, k: int, rows: Sequence[Row], kept: int) -> Iterator[Event]:
    """What round k drew and trained, as a line of the run's metrics."""
    steps = Run(job.file(f"round-{k}")).metrics("train")
    values = {
        "loss": steps[-1]["loss"],
        **rewards(rows),
        "selected": kept,
        "tokens": sum(row["tokens"] for row in steps) + sum(row["used"] for row in rows),
        "sampled_tokens": sum(row["used"] for row in rows),
        "seconds": sum(row["seconds"] for row in steps) + sum(row["seconds"] for row in rows),
        "sampling_seconds": sum(row["seconds"] for row in rows),
        "peak_memory": max(job.peak, *(row["peak_memory"] for row in steps)),
        "peak_resident": memory.peak(),
    }
    if k not in [row["step"] for row in job.run.metrics("train")]:
        job.run.log("train", k, values)
    drawn = f"candidates' reward {reward_text(values)}"
    text = f"round {k}: {drawn}; {kept} selected, {steps[-1]['step']} steps"
    yield Note(text, k, values=values)


def _finish(job: Job, k: int, ended: str) -> Event:
    """Put the result into the run's folder."""
    job.close()
    run, evals, rounds = job.run, job.run.metrics("eval"), job.run.metrics("train")
    used = job.used()
    if job.settings.select == "best" and k:
        k = max(evals[1:], key=lambda row: row["reward/mean"])["step"]
    folder = resolve_adapter(job.policy(k) or update.origin(job))
    for name in (WEIGHTS, CONFIG, CONTROL):
        if (folder / name).exists():
            shutil.copyfile(folder / name, run.path / name)
    inner = [read_object(job.file(f"round-{row['step']}") / "summary.json") for row in rounds]
    summary = {
        "status": "finished",
        "reason": ended or "all rounds done",
        "rounds": len(rounds),
        "steps": sum(one["steps"] for one in inner),
        "seconds": round(used["seconds"], 3),
        "tokens": round(used["tokens"]),
        "sampled_tokens": sum(row["sampled_tokens"] for row in rounds),
        "peak_memory": max([job.peak, *(row["peak_memory"] for row in rounds)]),
        "peak_resident": memory.peak(),
        "shared_batches": sum(one["shared_batches"] for one in inner),
        "separate_batches": sum(one["separate_batches"] for one in inner),
        "before": evals[0] if evals else None,
        "after": next((row for row in evals if row["step"] == k), None),
    }
    write_json(run.path / "summary.json", summary)
    run.set_total(len(rounds))
    run.finish("finished", ended)
    return Ended(summary, len(rounds), len(rounds))
