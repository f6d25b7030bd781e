"""What is seen of a training run, so that each flag can be shown to change something of it."""

import argparse
import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from minialign.cli.train import add_arguments
from minialign.errors import UserError
from minialign.models.adapter import WEIGHTS
from minialign.run_folder import Run


@dataclass(frozen=True)
class Row:
    """The flag with its value, what must differ, and flags that both runs have."""

    flag: str
    differs: str = "weights"
    both: str = ""
    how: Callable[[Any, Any], bool] = operator.ne  # (with the flag, without it)


@dataclass
class Outcome:
    """What can be seen of a run."""

    error: str = ""
    folder: str = ""
    weights: str = ""
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    said: str = ""  # of its examples
    sampled: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    logged: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)  # on held-out prompts
    evaluated: list[int] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    memory: float = 0.0
    shared: int = 0


@functools.cache
def parser_of(method: str) -> argparse.ArgumentParser:
    """The parser of a method's command line; it takes longer to make than a small run's step."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, method)
    return parser


def outcome(start: Callable[[], tuple[Run, Iterator[Any]]]) -> Outcome:
    """Of the run that ``start`` begins, when it has ended."""
    mx.clear_cache()
    try:
        run, events = start()
        happened = list(events)
    except UserError as reason:
        return Outcome(error=reason.problem)
    steps = [event.values for event in happened if event.kind == "step"]
    evaluations = run.metrics("eval")
    arrays: Any = mx.load(str(run.path / WEIGHTS))
    summary = json.loads((run.path / "summary.json").read_text())
    return Outcome(
        folder=str(run.path),
        weights=hashlib.sha256((run.path / WEIGHTS).read_bytes()).hexdigest(),
        tensors={name: value.shape for name, value in arrays.items()},
        said=next(e.text for e in happened if "to train on" in e.text or "to answer" in e.text),
        sampled=[event.values["prompt"] for event in happened if event.kind == "sampling"],
        tokens=[values["tokens"] for values in steps],
        steps=len(steps),
        losses=[values["loss"] for values in steps if "loss" in values],
        rates=[values["learning_rate"] for values in steps],
        betas=[values["beta"] for values in steps if "beta" in values],
        logged=[row["step"] for row in run.metrics("train")],
        rewards=[row["reward/mean"] for row in evaluations if "reward/mean" in row],
        evaluated=[row["step"] for row in evaluations],
        saved=[event.step for event in happened if event.kind == "saved"],
        memory=summary["peak_memory"],
        shared=summary["shared_batches"],
    )


def filled(flags: str, made: Mapping[str, Any]) -> list[str]:
    """The words of a command line, with the names in braces replaced; after ``--no-iters`` the
    usual ``--iters 3`` does not count."""
    if "--no-iters" in flags:
        flags = flags.replace("--no-iters", "").replace("--iters 3", "")
    return [word.format(**made) for word in flags.split()]


def assert_differs(row: Row, run: Callable[[str], Outcome]) -> None:
    """A run with the flag and one without show what the row says."""
    without, with_it = run(row.both), run(f"{row.both} {row.flag}".strip())
    if row.differs != "error":
        assert (with_it.error, without.error) == ("", "")
    before, after = getattr(without, row.differs), getattr(with_it, row.differs)
    assert row.how(after, before), (before, after)


def assert_repeats(one: Outcome, other: Outcome) -> None:
    """Two runs with the same flags show the same, in folders of their own."""
    assert not one.error
    assert one.folder != other.folder
    same = {"folder": "", "memory": 0.0}
    assert dataclasses.replace(one, **same) == dataclasses.replace(other, **same)  # type: ignore[arg-type]
