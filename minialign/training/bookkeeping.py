"""The updates of a run: ``fit``, and what is logged, evaluated and saved between its steps.

A method on rows (``offline``) and one that writes its own rows (``online``) differ in what their
``Bookkeeping`` holds, not in how it is kept.
"""

import math
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Signal
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from minialign.durable import write_json
from minialign.errors import UserError
from minialign.learn.batch import Batch
from minialign.learn.fit import (
    Diverged,
    Step,
    Updates,
    adamw,
    fit,
    joined,
    load_state,
    save_state,
    schedule,
)
from minialign.learn.policy import Counts
from minialign.machine.hardware import peak
from minialign.models import head
from minialign.models.adapter import CONFIG, WEIGHTS
from minialign.training.budget import spent
from minialign.training.events import Ended, Event, Note, Saved, Updated
from minialign.training.parts import Parts, save_result

RESULT = (WEIGHTS, CONFIG, head.FILE, head.VALUE_FILE)
# what is added up between two lines of the metrics
SUMMED = ("tokens", "seconds", "rollout_tokens", "rollout_seconds")


def be_ready(done: int) -> Generator[Event, None, bool | None]:
    """Do nothing before a step."""
    yield from ()
    return False


@dataclass
class Bookkeeping:
    """A run under way: how far it is, and how it is logged, evaluated and saved.

    Attributes:
        batches: done -> micro-batches of each update after so many.
        values: what is logged of a step.
        ahead: how many steps there will be in all, as it looks before a step.
        evaluate: (step, ahead) -> events.
        weight: how many units the loss of a batch is a sum over.
        looks_first: whether the held-out rows are evaluated before the first step.
        ready: what must be there before the next step; whether it is new, None when stopped.
        keep: writes what resuming needs beside weights and optimizer into a checkpoint.
        restore: reads that.
        before: what the held-out rows look like without an evaluation, for the summary.
        advice: what to try when the run diverges.
        done: steps made so far.
        ended: why it ends before ``parts.total``; "" otherwise.
        unlogged: sums of ``SUMMED`` since the last line of the metrics.
    """

    parts: Parts
    batches: Callable[[int], Iterator[list[Batch]]]
    values: Callable[[Step], dict[str, Any]]
    ahead: Callable[[int], int]
    evaluate: Callable[[int, int], Iterable[Event]]
    weight: Callable[[Batch], float]
    looks_first: bool = True
    ready: Callable[[int], Generator[Event, None, bool | None]] = be_ready
    keep: Callable[[Path], None] = lambda folder: None
    restore: Callable[[Path], None] = lambda folder: None
    before: dict[str, float] | None = None
    advice: str = "try a smaller --learning-rate, a longer --warmup or --grad-clip 0.5"
    done: int = 0
    ended: str = ""
    unlogged: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.parts.settings
        self.optimizer: optim.Optimizer = adamw(settings.betas, settings.weight_decay)
        self.optimizer.init(joined(self.parts.policy.trainable.trainable_parameters()))

    def is_last(self) -> bool:
        """Whether no step follows."""
        return self.done == self.parts.total or bool(self.ended)

    def rate(self, step: int) -> float:
        """The learning rate of a step; the schedule ends where the run will, as far as known."""
        total, settings = self.ahead(step), self.parts.settings
        warmup = settings.warmup * total if settings.warmup < 1 else settings.warmup
        return schedule(settings.lr_schedule, settings.learning_rate, round(warmup), total)(step)

    def save(self) -> None:
        """Write a checkpoint, with the run's result."""

        def write(folder: Path) -> None:
            save_state(folder, self.parts.policy, self.optimizer)
            self.keep(folder)

        self.parts.run.save_checkpoint(self.done, write)
        save_result(self.parts, self.parts.run.path)


def train(books: Bookkeeping, stop: Signal) -> Iterator[Event]:
    """Make the updates that are left, after the last checkpoint if there is one, and finish.

    Raises:
        UserError: when the run diverges; the last good weights are its result.
    """
    parts, settings, policy = books.parts, books.parts.settings, books.parts.policy
    if checkpoints := parts.run.checkpoints():
        done = books.done = checkpoints[-1]
        logged = [row for row in parts.run.metrics("train") if row["step"] <= done]
        parts.used = {name: sum(row[name] for row in logged) for name in parts.used}
        folder = parts.run.checkpoint_path(done)
        load_state(folder, policy, books.optimizer)
        books.restore(folder)
        yield Note(f"going on after step {done}", done, parts.total)
    elif parts.rows.held_out and books.looks_first:
        yield from books.evaluate(0, parts.total)
    policy.counts = Counts()  # batches that were only read are not training's
    updates = Updates(
        books.rate, books.weight, settings.grad_clip, first=books.done + 1, seed=settings.seed
    )
    loss = parts.method.loss(parts.config)
    steps = fit(policy, loss, books.batches(books.done), books.optimizer, updates)
    if (yield from _record(books, steps, stop)):
        yield from _finish(books)


def _record(
    books: Bookkeeping, steps: Iterator[Step], stop: Signal
) -> Generator[Event, None, bool]:
    """Take the steps that are left; false when ``stop`` was set before the end."""
    began, first, parts = time.monotonic(), books.done, books.parts
    books.ended = spent(parts.settings, **parts.used)
    mx.reset_peak_memory()
    try:
        while books.done < parts.total and not books.ended:
            new = yield from books.ready(books.done)
            if new is not False:
                books.save()
            if new is None:
                yield _stop(books, parts.total)
                return False
            values = _log(books, next(steps))
            done, last = books.done, books.is_last()
            ahead = done if last else max(books.ahead(done + 1), done + 1)
            eta = (time.monotonic() - began) / (done - first) * (ahead - done)
            yield Updated(done, ahead, {**values, "eta": eta})
            yield from _evaluate_and_save(books, ahead, stop)
            if stop.is_set() and not last and not books.ended:
                yield _stop(books, ahead)
                return False
    except Diverged as reason:
        parts.run.drop_checkpoints(after=reason.good)
        save_result(parts, parts.run.path)
        said = f"{reason}; the weights of step {reason.good} are kept"
        raise UserError(said, books.advice) from None
    return True


def _log(books: Bookkeeping, step: Step) -> dict[str, Any]:
    """Count a step and write its line of the metrics where one is due; returns its values."""
    parts, books.done = books.parts, step.step
    values = books.values(step)
    for name in values.keys() & SUMMED:
        books.unlogged[name] = books.unlogged.get(name, 0.0) + values[name]
    for name in parts.used:
        parts.used[name] += values[name]
    books.ended = spent(parts.settings, **parts.used)
    if books.done % parts.settings.steps_per_report == 0 or books.is_last():
        parts.run.log("train", books.done, {**values, **books.unlogged})
        books.unlogged.clear()
    return values


def _evaluate_and_save(books: Bookkeeping, ahead: int, stop: Signal) -> Iterator[Event]:
    """What is due after a step; the end, when nothing got better for long enough."""
    parts, done, last = books.parts, books.done, books.is_last()
    settings = parts.settings
    evaluates = settings.steps_per_eval and done % settings.steps_per_eval == 0
    if parts.rows.held_out and (evaluates or last):
        yield from books.evaluate(done, ahead)
    enough = bool(settings.patience) and _since_best(parts, done) >= settings.patience
    if done % settings.save_every == 0 or last or stop.is_set() or enough:
        books.save()
        yield Saved(done, ahead)
    if enough and not books.ended:
        figure = "reward" if parts.method.on_policy else "loss"
        books.ended = f"no better {figure} in {settings.patience} evaluations"


def _since_best(parts: Parts, done: int) -> int:
    """How many evaluations up to step ``done`` came after the best one."""
    costs = [_cost(parts, row) for row in parts.run.metrics("eval") if row["step"] <= done]
    return len(costs) - 1 - costs.index(min(costs)) if costs else 0


def _cost(parts: Parts, values: dict[str, Any]) -> float:
    """The figure of an evaluation that is lowest in the best one."""
    return -values["reward/mean"] if parts.method.on_policy else values["loss"]


def log_evaluation(parts: Parts, step: int, values: dict[str, Any]) -> None:
    """Log what the held-out rows look like, and keep the adapter if it is the best so far."""
    rows = parts.run.metrics("eval")
    earlier = [_cost(parts, row) for row in rows if 0 < row["step"] < step]
    parts.run.log("eval", step, values)
    if step > 0 and _cost(parts, values) < min(earlier, default=math.inf):
        save_result(parts, parts.run.path / "best")


def log_values(
    step: Step, metrics: dict[str, float], written: tuple[int, float] | None = None
) -> dict[str, Any]:
    """What is logged of an update; ``written`` is (tokens, seconds) of the answers that it is the
    first to learn from, None for a method on rows."""
    tokens, seconds = written or (0, 0.0)
    own = written is not None
    return {
        "loss": step.loss,
        **metrics,
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
        "tokens": step.tokens + tokens,
        **({"rollout_tokens": tokens} if own else {}),
        "tokens_per_second": step.tokens / step.seconds,
        "padding": step.padding,
        "seconds": step.seconds + seconds,
        **({"rollout_seconds": seconds} if own else {}),
        "peak_memory": mx.get_peak_memory(),
    }


def _stop(books: Bookkeeping, ahead: int) -> Event:
    books.parts.run.finish("stopped", f"after step {books.done}")
    return Ended({"status": "stopped"}, books.done, ahead)


def _finish(books: Bookkeeping) -> Iterator[Event]:
    """End a run that was not stopped: its result and its summary."""
    parts, done = books.parts, books.done
    run, settings, method = parts.run, parts.settings, parts.method
    if books.ended:
        yield Note(f"{books.ended}: finished")
    run.set_total(done)
    if not (run.path / WEIGHTS).exists() or done not in run.checkpoints():
        books.save()
    best = run.path / "best"
    if (settings.select == "best" or settings.patience) and (best / WEIGHTS).exists():
        for name in RESULT:
            if (best / name).exists():
                shutil.copyfile(best / name, run.path / name)
    evaluations = run.metrics("eval")
    first = next((row for row in evaluations if row["step"] == 0), None)
    written = sum(row.get("rollout_tokens", 0) for row in run.metrics("train"))
    summary = {
        "status": "finished",
        "reason": books.ended or "all steps done",
        "steps": done,
        "seconds": parts.used["seconds"],
        "tokens": int(parts.used["tokens"]),
        "peak_memory": mx.get_peak_memory(),
        "peak_resident": peak(),
        **({"rollout_tokens": int(written)} if method.on_policy else {}),
        **parts.policy.counts.batches(),
        "before": books.before or first,
        "after": evaluations[-1] if evaluations else None,
    }
    write_json(run.path / "summary.json", summary)
    run.finish("finished", books.ended)
    yield Ended(summary, done, done)
