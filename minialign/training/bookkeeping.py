"""What is logged, evaluated and saved between the updates that ``fit`` makes, and when a run ends.

A method on rows (``offline``) and one that writes its own rows (``online``) differ in what their
``Bookkeeping`` holds, not in how it is kept.
"""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Event as Signal
from typing import Any

import mlx.core as mx

from minialign.durable import write_atomic
from minialign.errors import UserError
from minialign.learn.fit import Diverged, Step, schedule
from minialign.models.adapter import CONFIG, WEIGHTS
from minialign.run_folder import Run
from minialign.training import memory
from minialign.training.budget import spent
from minialign.training.events import Ended, Event, Note, Saved, Updated
from minialign.training.settings import Settings


def be_ready(done: int) -> Generator[Event, None, bool]:
    """Do nothing before a step."""
    yield from ()
    return True


@dataclass
class Bookkeeping:
    """A run under way: how far it is, and how it is logged, evaluated and saved.

    Attributes:
        total: the number of its last step.
        done: steps made so far.
        used: tokens and seconds, those before a resume counted; grows with each step.
        values: what is logged of a step.
        ahead: how many steps there will be in all, as it looks before a step.
        evaluate: (step, ahead) -> events; None when no rows are held out.
        save: a checkpoint after so many steps, with the run's result.
        save_result: the result alone.
        best: the figure of an evaluation that says which is best, and min or max.
        ready: what must be there before the next step; false when it was stopped meanwhile.
        summed: values that are added up between two lines of the metrics.
        result: files of a result beside the adapter's.
        advice: what to try when the run diverges.
        ended: why it ends before ``total``; "" otherwise.
        unlogged: sums of ``summed`` since the last line of the metrics.
    """

    run: Run
    settings: Settings
    total: int
    done: int
    used: dict[str, float]
    values: Callable[[Step], dict[str, Any]]
    ahead: Callable[[int], int]
    evaluate: Callable[[int, int], Iterable[Event]] | None
    save: Callable[[int], None]
    save_result: Callable[[], None]
    best: tuple[str, Callable[..., float]] = ("loss", min)
    ready: Callable[[int], Generator[Event, None, bool]] = be_ready
    summed: tuple[str, ...] = ("tokens", "seconds")
    result: tuple[str, ...] = ()
    advice: str = "try a smaller --learning-rate, a longer --warmup or --grad-clip 0.5"
    ended: str = ""
    unlogged: dict[str, float] = field(default_factory=dict)

    def is_last(self) -> bool:
        """Whether no step follows."""
        return self.done == self.total or bool(self.ended)

    def rate(self, step: int) -> float:
        """The learning rate of a step; the schedule ends where the run will, as far as known."""
        total, settings = self.ahead(step), self.settings
        warmup = settings.warmup * total if settings.warmup < 1 else settings.warmup
        return schedule(settings.lr_schedule, settings.learning_rate, round(warmup), total)(step)

    def evaluations_since_best(self) -> int:
        """How many evaluations have passed since the best one, up to now."""
        name, best = self.best
        values = [row[name] for row in self.run.metrics("eval") if row["step"] <= self.done]
        return len(values) - 1 - values.index(best(values)) if values else 0


def record_steps(
    books: Bookkeeping, steps: Iterator[Step], stop: Signal
) -> Generator[Event, None, bool]:
    """Take the steps that are left; true when the run came to its end, false when ``stop`` was set
    before.

    Raises:
        UserError: when the run diverges; the last good weights are its result.
    """
    began, first = time.monotonic(), books.done
    books.ended = spent(books.settings, **books.used)
    mx.reset_peak_memory()
    try:
        while books.done < books.total and not books.ended:
            if not (yield from books.ready(books.done)):
                books.save(books.done)
                yield _stop(books, books.total)
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
        books.run.drop_checkpoints(after=reason.good)
        books.save_result()
        raise UserError(
            f"{reason}; the weights of step {reason.good} are kept", books.advice
        ) from None
    return True


def _log(books: Bookkeeping, step: Step) -> dict[str, Any]:
    """Count a step and write its line of the metrics where one is due; returns its values."""
    books.done = step.step
    values = books.values(step)
    for name in books.summed:
        books.unlogged[name] = books.unlogged.get(name, 0.0) + values[name]
    for name in books.used:
        books.used[name] += values[name]
    books.ended = spent(books.settings, **books.used)
    if books.done % books.settings.steps_per_report == 0 or books.is_last():
        books.run.log("train", books.done, {**values, **books.unlogged})
        books.unlogged.clear()
    return values


def _evaluate_and_save(books: Bookkeeping, ahead: int, stop: Signal) -> Iterator[Event]:
    """What is due after a step; the end, when nothing got better for long enough."""
    settings, done, last = books.settings, books.done, books.is_last()
    evaluates = settings.steps_per_eval and done % settings.steps_per_eval == 0
    if books.evaluate and (evaluates or last):
        yield from books.evaluate(done, ahead)
    enough = bool(settings.patience) and books.evaluations_since_best() >= settings.patience
    if done % settings.save_every == 0 or last or stop.is_set() or enough:
        books.save(done)
        yield Saved(done, ahead)
    if enough and not books.ended:
        figure = books.best[0].split("/")[0]
        books.ended = f"no better {figure} in {settings.patience} evaluations"


def _stop(books: Bookkeeping, ahead: int) -> Event:
    books.run.finish("stopped", f"after step {books.done}")
    return Ended({"status": "stopped"}, books.done, ahead)


def finish(books: Bookkeeping, summary: dict[str, Any]) -> Iterator[Event]:
    """End a run that was not stopped: its result and its summary, to which ``summary`` adds."""
    run, settings, done = books.run, books.settings, books.done
    if books.ended:
        yield Note(f"{books.ended}: finished")
    run.set_total(done)
    if not (run.path / WEIGHTS).exists() or done not in run.checkpoints():
        books.save(done)
    best = run.path / "best"
    if (settings.select == "best" or settings.patience) and (best / WEIGHTS).exists():
        for name in (WEIGHTS, CONFIG, *books.result):
            if (best / name).exists():
                shutil.copyfile(best / name, run.path / name)
    evaluations = run.metrics("eval")
    whole = {
        "status": "finished",
        "reason": books.ended or "all steps done",
        "steps": done,
        "seconds": books.used["seconds"],
        "tokens": int(books.used["tokens"]),
        "peak_memory": mx.get_peak_memory(),
        "peak_resident": memory.peak(),
        **summary,
        "after": evaluations[-1] if evaluations else None,
    }
    write_atomic(run.path / "summary.json", json.dumps(whole, indent=2) + "\n")
    run.finish("finished", books.ended)
    yield Ended(whole, done, done)
