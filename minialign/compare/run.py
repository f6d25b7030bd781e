"""A comparison at work: what is missing is run, each part as a process of its own.

A part is a child process of the ordinary command line, so its memory and its seconds are its own
and the same command gives the same by hand. Its folder holds ``part.json`` (the command, every try
with its seconds and peak memory), ``log.txt`` and the result. A lock that the child holds says that
it still works, even when what started it was killed.
"""

import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from filelock import lock_descriptor

from minialign.compare.answers import SCORES
from minialign.compare.plan import Part, Plan
from minialign.compare.process import RECORD, Happened, child, record_of, tail
from minialign.durable import read_jsonl, read_object, write_atomic, write_json
from minialign.errors import UserError
from minialign.learn.batch import encode_prompt
from minialign.models.sources.fetch import ensure
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.run_folder import Run, flags
from minialign.training.budget import tokens_read

RATES = {"train": 220.0, "sample": 220.0, "answers": 300.0}  # tokens a second, to begin with
STARTING = 6.0  # seconds until a process works


def is_done(part: Part) -> bool:
    """Whether a part has its result, whole, and what it took is written down."""
    return bool(record_of(part).get("finished")) and _has_result(part)


def _has_result(part: Part) -> bool:
    if part.kind == "train":
        there = (part.result / "config.json").exists()
        return there and Run(part.result).state().status == "finished"
    if part.kind == "answers":
        return (part.folder / SCORES).exists()
    return part.result.exists() and bool(record_of(part).get("finished"))


def seconds_needed(part: Part) -> float:
    """A first guess."""
    return STARTING + part.estimate / RATES[part.kind]


@dataclass
class Clock:
    """How long the rest will take: guesses, corrected by what parts took so far."""

    parts: list[Part]
    taken: float = 0.0
    guessed: float = 0.0

    def left(self, done: int, running: float = 0.0) -> float:
        """Seconds that the parts after the first ``done`` need; ``running`` of them have passed."""
        pace = self.taken / self.guessed if self.guessed else 1.0
        rest = sum(seconds_needed(part) for part in self.parts[done:]) * pace
        return max(rest - running, 0.0)


def run(made: Plan, stop: threading.Event) -> Iterator[Happened]:
    """Run what is missing, in order. A failed part is reported and what needs it is skipped; a
    later call tries it again. Setting ``stop`` lets the part under way save what it has, and ends
    the iterator."""
    failed: set[str] = set()
    missing = [part for part in made.parts.values() if not is_done(part)]
    clock, done = Clock(missing), 0
    for part in made.parts.values():
        if stop.is_set():
            return
        if part not in missing:
            yield Happened("reused", part, record=record_of(part))
            continue
        if lost := failed.intersection(part.needs):
            failed.add(part.name)
            yield Happened("skipped", part, f"without {', '.join(sorted(lost))}")
            done += 1
            continue
        began = time.monotonic()
        for event in _part(made, part, stop):
            left = clock.left(done, time.monotonic() - began)
            yield Happened(event.kind, part, event.text, left, event.record)
            if event.kind == "failed":
                failed.add(part.name)
        done += 1
        clock.taken += time.monotonic() - began
        clock.guessed += seconds_needed(part)


def command(made: Plan, part: Part) -> list[str]:
    """The words of a part's command, the budget less what sampling for it took.

    Raises:
        UserError: when that took all of it.
    """
    if part.budget is None:
        return list(part.words)
    name, amount = part.budget
    if part.charged:
        used = record_of(made.parts[part.charged])
        taken = used["tokens"] if name == "max_tokens" else used["seconds"] / 60
        if amount - taken <= 0:
            said = f"{part.charged} took {taken:,.6g} of {name} = {amount:,g}: nothing is left"
            raise UserError(said, "fewer answers: [sampled] n or prompts; or a larger budget")
        amount -= taken
    return _with_budget(part, amount)


def _with_budget(part: Part, amount: float) -> list[str]:
    name = part.budget[0] if part.budget else ""
    return [*part.words, *flags({name: int(amount) if name == "max_tokens" else amount})]


def _part(made: Plan, part: Part, stop: threading.Event) -> Iterator[Happened]:
    """Run one part to its end, or until it is stopped."""
    part.folder.mkdir(parents=True, exist_ok=True)
    with open(part.folder / "lock", "a", encoding="utf-8") as lock:
        while not lock_descriptor(lock.fileno(), blocking=False):
            yield Happened("waits", part, "a process that an earlier comparison started is at work")
            if stop.wait(0.5):
                return
        if _has_result(part):  # the comparison was killed before it wrote that down
            yield Happened("finished", part, record=_write_down(made, part))
            return
        try:
            words = _words(made, part)
        except UserError as reason:
            yield Happened("failed", part, str(reason))
            return
        yield Happened("started", part, shlex.join(["minialign", *words]))
        code = yield from child(part, words, lock.fileno(), stop)
    if code == 0 and (part.kind == "sample" or _has_result(part)):
        yield Happened("finished", part, record=_write_down(made, part))
    elif stop.is_set():
        return
    else:
        said = f"exit code {code}: {tail(part, 600)}"
        yield Happened("failed", part, f"{said}\n  all of it: {part.folder / 'log.txt'}")


def _words(made: Plan, part: Part) -> list[str]:
    """The command that begins a part, or goes on with it."""
    if part.spec:
        write_atomic(part.folder / "spec.json", part.spec + "\n")
    if part.kind == "train" and (part.result / "config.json").exists():
        return ["runs", "resume", str(part.result)]
    return command(made, part)


def _write_down(made: Plan, part: Part) -> dict[str, Any]:
    """Write down what a finished part took: seconds and memory of all tries, its tokens."""
    record = record_of(part) or {"name": part.name, "tries": []}
    for one in record["tries"]:
        if one["seconds"] is None:  # killed with what started it: until it last said something
            one["seconds"] = max(0.0, (part.folder / "log.txt").stat().st_mtime - one["began"])
    record["seconds"] = sum(one["seconds"] for one in record["tries"])
    peaks = [one.get("peak_memory", 0) for one in record["tries"]]
    used = _used(made, part)
    record |= used | {"peak_memory": round(max([used.get("peak_memory", 0), *peaks]))}
    record["finished"] = True
    write_json(part.folder / RECORD, record, indent=1)
    return record


def _used(made: Plan, part: Part) -> dict[str, Any]:
    """Tokens, as a budget counts them, and the seconds that it counts."""
    if part.kind == "train":
        summary = read_object(part.result / "summary.json")
        peak = summary["peak_resident"]  # also of a process that outlived what started it
        return {"tokens": int(summary["tokens"]), "steps": summary["steps"], "peak_memory": peak}
    if part.kind == "answers":
        return {"tokens": 0}
    tokenizer = Tokenizer.load(ensure(made.one.top.model))
    tokens = 0
    for row in read_jsonl(part.result):
        prompt, written = len(encode_prompt(row["prompt"], tokenizer)), sum(row["tokens"])
        tokens += prompt + written + tokens_read(made.proxy, len(row["tokens"]), prompt, written)
    return {"tokens": tokens}


def commands(made: Plan) -> str:
    """A shell script of all commands, in order; what is left of a budget once that is known."""
    lines = ["# The commands of this comparison, in order.", ""]
    for part in made.parts.values():
        whole = _with_budget(part, part.budget[1]) if part.budget else part.words
        words = record_of(part).get("command") or whole
        less = f"   # less what {part.charged} took" if part.charged else ""
        lines.append(shlex.join(["minialign", *words]) + less)
    return "\n".join(lines) + "\n"
