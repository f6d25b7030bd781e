"""The course of a training run, whatever it trains: what is logged, evaluated and saved between the
updates that ``fit`` makes, and when it ends.

A method of rows (``tasks.train``) and one that writes its own rows (``tasks.ppo``) differ in what a
``Course`` holds, not in how it goes.
"""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event as Signal
from typing import Any

import mlx.core as mx

from minialign.durable import write_atomic
from minialign.errors import UserError
from minialign.learn.fit import Diverged, Step, schedule
from minialign.models.adapter import CONFIG, WEIGHTS
from minialign.run_folder import Run, take_back
from minialign.training import memory
from minialign.training.budget import spent
from minialign.training.events import Event
from minialign.training.settings import Settings


def at_once(done: int) -> Generator[Event, None, bool]:
    """Nothing is to be done before a step."""
    yield from ()
    return True


@dataclass
class Course:
    """A run under way.

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
    ready: Callable[[int], Generator[Event, None, bool]] = at_once
    summed: tuple[str, ...] = ("tokens", "seconds")
    result: tuple[str, ...] = ()
    advice: str = "try a smaller --learning-rate, a longer --warmup or --grad-clip 0.5"
    ended: str = ""

    def rate(self, step: int) -> float:
        """The learning rate of a step; the schedule ends where the run will, as far as known."""
        total, settings = self.ahead(step), self.settings
        warmup = settings.warmup * total if settings.warmup < 1 else settings.warmup
        return schedule(settings.lr_schedule, settings.learning_rate, round(warmup), total)(step)

    def waited(self) -> int:
        """How many evaluations have passed since the best one, up to now."""
        name, best = self.best
        found = [row[name] for row in self.run.metrics("eval") if row["step"] <= self.done]
        return len(found) - 1 - found.index(best(found)) if found else 0


@contextmanager
def under_lock(run: Run, began: Callable[[], bool]) -> Iterator[None]:
    """The run's lock, and its end when a user's mistake ends it: a run of which nothing ``began``
    leaves name and folder free for the next try."""
    with run.locked():
        try:
            yield
        except UserError as reason:
            if began():
                run.finish("failed", reason.problem)
            else:
                take_back(run)
            raise


def follow(course: Course, steps: Iterator[Step], stop: Signal) -> Generator[Event, None, bool]:
    """The events of the steps that are left; true when the course came to its end, false when
    ``stop`` was set before.

    Raises:
        UserError: when the run diverges; the last good weights are its result.
    """
    run, settings = course.run, course.settings
    began, first = time.monotonic(), course.done
    unlogged = dict.fromkeys(course.summed, 0.0)
    course.ended = spent(settings, **course.used)
    mx.reset_peak_memory()
    try:
        while course.done < course.total and not course.ended:
            if not (yield from course.ready(course.done)):
                course.save(course.done)
                yield _stopped(course, course.total)
                return False
            step = next(steps)
            done = course.done = step.step
            values = course.values(step)
            unlogged = {name: value + values[name] for name, value in unlogged.items()}
            for name in course.used:
                course.used[name] += values[name]
            course.ended = spent(settings, **course.used)
            last = done == course.total or bool(course.ended)
            if done % settings.steps_per_report == 0 or last:
                run.log("train", done, {**values, **unlogged})
                unlogged = dict.fromkeys(course.summed, 0.0)
            ahead = done if last else max(course.ahead(done + 1), done + 1)
            eta = (time.monotonic() - began) / (done - first) * (ahead - done)
            yield Event("step", step=done, total=ahead, values={**values, "eta": eta})
            evaluates = settings.steps_per_eval and done % settings.steps_per_eval == 0
            if course.evaluate and (evaluates or last):
                yield from course.evaluate(done, ahead)
            enough = bool(settings.patience) and course.waited() >= settings.patience
            if done % settings.save_every == 0 or last or stop.is_set() or enough:
                course.save(done)
                yield Event("saved", step=done, total=ahead)
            if enough and not course.ended:
                figure = course.best[0].split("/")[0]
                course.ended = f"no better {figure} in {settings.patience} evaluations"
            if stop.is_set() and not last and not course.ended:
                yield _stopped(course, ahead)
                return False
    except Diverged as reason:
        run.drop_checkpoints(after=reason.good)
        course.save_result()
        raise UserError(
            f"{reason}; the weights of step {reason.good} are kept", course.advice
        ) from None
    return True


def _stopped(course: Course, ahead: int) -> Event:
    course.run.finish("stopped", f"after step {course.done}")
    return Event("end", step=course.done, total=ahead, values={"status": "stopped"})


def finished(course: Course, summary: dict[str, Any]) -> Iterator[Event]:
    """The end of a course that was not stopped: result and summary, to which ``summary`` adds."""
    run, settings, done = course.run, course.settings, course.done
    if course.ended:
        yield Event("note", f"{course.ended}: finished")
    run.set_total(done)
    if not (run.path / WEIGHTS).exists() or done not in run.checkpoints():
        course.save(done)
    best = run.path / "best"
    if (settings.select == "best" or settings.patience) and (best / WEIGHTS).exists():
        for name in (WEIGHTS, CONFIG, *course.result):
            if (best / name).exists():
                shutil.copyfile(best / name, run.path / name)
    evaluations = run.metrics("eval")
    whole = {
        "status": "finished",
        "reason": course.ended or "all steps done",
        "steps": done,
        "seconds": course.used["seconds"],
        "tokens": int(course.used["tokens"]),
        "peak_memory": mx.get_peak_memory(),
        "peak_resident": memory.peak(),
        **summary,
        "after": evaluations[-1] if evaluations else None,
    }
    write_atomic(run.path / "summary.json", json.dumps(whole, indent=2) + "\n")
    run.finish("finished", course.ended)
    yield Event("end", step=done, total=done, values=whole)
