"""The one loop of rounds: sample, score, select, train, measure, and again with what was trained.

In the run's folder lies ``rounds/``: the candidates of each round with their scores, the rows that
were selected of them, the training run of each round, and the answers to held-out prompts. What is
there is never made again, so a run that is killed anywhere goes on where it was.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minialign.config import resolve
from minialign.durable import write_atomic
from minialign.errors import UserError
from minialign.methods.rounds import LOOPS, Loop, RoundSettings
from minialign.models.adapter import CONFIG, WEIGHTS, resolve_adapter
from minialign.models.control import FILE as CONTROL
from minialign.models.sources.fetch import ensure
from minialign.progress import Tell
from minialign.rewards.spec import parse, with_whole_path
from minialign.run_folder import Run
from minialign.training import memory
from minialign.training.bookkeeping import under_lock
from minialign.training.budget import spent
from minialign.training.events import Event
from minialign.training.examples import check_data
from minialign.training.rounds.candidates import (
    Job,
    Row,
    Stopped,
    candidates,
    measured,
    read_asked,
    reward_text,
    rewards,
)
from minialign.training.rounds.update import demonstrations, origin, selected, trained
from minialign.training.settings import Settings, check, with_whole_paths

# settings of a training run that rounds have no use for
UNUSED = ("map", "skip_bad", "reference_adapter", "steps_per_eval", "patience")


def start(
    loop: Loop,
    settings: Settings,
    plan: RoundSettings,
    config: Any,
    stop: threading.Event | None = None,
    progress: Tell | None = None,
) -> tuple[Run, Iterator[Event]]:
    """A new run's folder, and its events; nothing is sampled before the first event is taken.

    Raises:
        UserError: for settings that no run can use, a model that is not to be had, or a folder
            that is taken.
    """
    _check(loop, settings, plan, config)
    settings, plan = with_whole_paths(settings), replace(plan, scorer=with_whole_path(plan.scorer))
    if mix := getattr(config, "mix", ()):
        config = replace(config, mix=tuple(os.path.abspath(Path(p).expanduser()) for p in mix))
    check_data(settings)
    ensure(settings.model, progress)
    values = {key: item for one in (settings, plan, config) for key, item in vars(one).items()}
    out = Path(settings.out) if settings.out else None
    run = Run.create(loop.name, values, out, settings.name)
    job = Job(run, loop, settings, plan, config, stop or threading.Event())
    return run, _run(job, fresh=True)


def resume(run: Run, stop: threading.Event | None = None) -> Iterator[Event]:
    """Go on with a run that was stopped or killed.

    Raises:
        UserError: when the run is finished, running, or not of rounds.
    """
    stored, where = run.config, str(run.path / "config.json")
    loop = LOOPS.get(stored.get("method", ""))
    if loop is None:
        raise UserError(f"run {run.name}: method {stored.get('method')!r} has no rounds")
    if run.state().status == "finished":
        raise UserError(
            f"run {run.name} is finished",
            f"to go on from it: minialign {loop.name} --adapter {run.name} --data FILE",
        )
    settings, plan, config = (
        resolve(one, stored, {}, where) for one in (Settings, RoundSettings, loop.config)
    )
    return _run(Job(run, loop, settings, plan, config, stop or threading.Event()))


def _check(loop: Loop, settings: Settings, plan: RoundSettings, config: Any) -> None:
    check(settings)
    if not plan.scorer:
        raise UserError(f"{loop.name} needs a scorer", "--scorer length, reward:RUN, exact, …")
    parse(plan.scorer)
    if not settings.data:
        raise UserError("no prompts", "--data prompts.txt   (or rows with prompts, JSONL…)")
    for name in UNUSED:
        if getattr(settings, name) != getattr(Settings(), name):
            raise UserError(f"{name} has no meaning for {loop.name}", "leave it out")
    for name in ("n", "rounds", "heldout_n", "rollout_batch"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise UserError(f"{name} = {value}", "it must be 1 or more")
    if plan.prompts_per_round < 0:
        raise UserError(f"prompts_per_round = {plan.prompts_per_round}", "0 is all of them")
    if plan.eos_penalty < 0:
        raise UserError(f"eos_penalty = {plan.eos_penalty}", "it must be 0 or more")
    if plan.sampling().greedy and (plan.n > 1 or plan.heldout_n > 1):
        raise UserError("candidates at temperature 0 are all the same", "--temperature 0.7")
    loop.check(config, plan.n)


def _run(job: Job, fresh: bool = False) -> Iterator[Event]:
    def began() -> bool:
        if not fresh or any(file.stat().st_size for file in job.file("").glob("*.jsonl")):
            return True
        shutil.rmtree(job.file(""), ignore_errors=True)  # empty files
        return False

    with under_lock(job.run, began):
        try:
            yield from _rounds(job)
        except Stopped as reached:
            job.run.finish("stopped", str(reached))
            yield Event("end", values={"status": "stopped"})
        finally:
            job.close()


def _rounds(job: Job) -> Iterator[Event]:
    settings, plan = job.settings, job.plan
    budget = settings.max_tokens or settings.max_minutes
    total = plan.rounds or (0 if budget else job.loop.rounds)
    job.run.set_total(total)
    read_asked(job)
    demonstrations(job)  # what is wrong with them is said before anything is sampled
    job.file("").mkdir(exist_ok=True)
    of = f"{total} round{'s' * (total != 1)}" if total else "rounds within the budget"
    held = f", {len(job.held_out)} held out" if job.held_out else ""
    yield Event("note", f"{len(job.prompts)} prompts{held}; {of}, {plan.n} candidates a prompt")
    k, ended = 0, ""
    while True:
        yield from measured(job, k)
        begun = job.file(f"round-{k + 1}").exists()  # then the budget allowed it
        ended = "" if begun else spent(settings, **job.used())
        if ended or k == total > 0:
            break
        rows = yield from candidates(job, k + 1)
        ended = "" if begun else spent(settings, **job.used())
        kept = 0 if ended else selected(job, k + 1, rows)
        if not kept:
            ended = ended or f"round {k + 1}: no candidate was selected"
            break
        k += 1
        yield from trained(job, k)
        yield from _logged(job, k, rows, kept)
    if ended:
        yield Event("note", f"{ended}: finished")
    yield _finished(job, k, ended)


def _logged(job: Job, k: int, rows: Sequence[Row], kept: int) -> Iterator[Event]:
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
    yield Event("note", text, k, values=values)


def _finished(job: Job, k: int, ended: str) -> Event:
    """Put the result into the run's folder."""
    job.close()
    run, evals, rounds = job.run, job.run.metrics("eval"), job.run.metrics("train")
    used = job.used()
    if job.settings.select == "best" and k:
        k = max(evals[1:], key=lambda row: row["reward/mean"])["step"]
    folder = resolve_adapter(job.policy(k) or origin(job))
    for name in (WEIGHTS, CONFIG, CONTROL):
        if (folder / name).exists():
            shutil.copyfile(folder / name, run.path / name)
    inner = [
        json.loads((job.file(f"round-{row['step']}") / "summary.json").read_text(encoding="utf-8"))
        for row in rounds
    ]
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
    write_atomic(run.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    run.set_total(len(rounds))
    run.finish("finished", ended)
    return Event("end", step=len(rounds), total=len(rounds), values=summary)
