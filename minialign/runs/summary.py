"""What can be asked of training runs: a summary, everything about one, and its metrics as series.

Only reads the folders of runs, so it works on a run that another process trains. A run whose files
are damaged is reported as "broken", with the reason, and never stops the others from being listed.
"""

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign.durable import read_jsonl
from minialign.errors import UserError, nearest
from minialign.run_folder import FILES, Run

ACCURACY = "rewards/accuracies"
HIDDEN = ("kind", "step", "time")  # the columns of a metrics row that are not metrics


@dataclass(frozen=True)
class Summary:
    """A run in one line; what is not known (yet) is None."""

    name: str
    path: str
    method: str
    model: str
    status: str  # a State's, or "broken"
    message: str
    step: int
    total: int
    loss: float | None  # of the last training step
    accuracy: float | None
    eval_loss: float | None  # of the last evaluation
    eval_accuracy: float | None
    age: float  # seconds since the run was made
    bytes: int  # on disk
    reward: float | None = None  # of the last answers, where answers are rewarded


@dataclass(frozen=True)
class Series:
    """One metric of one run; steps ascend, values are finite."""

    run: str
    key: str
    kind: str  # "train" or "eval"
    steps: list[int]
    values: list[float]


def summarize(run: Run) -> Summary:
    """A run in one line; never raises for a damaged one."""
    last = last_metrics(run)
    train, evaluation = last.get("train", {}), last.get("eval", {})
    config: dict[str, Any] = {}
    try:
        config, state = run.config, run.state()
        status, message, step, total = state.status, state.message, state.step, state.total
    except (UserError, ValueError, TypeError) as reason:
        status, message = "broken", getattr(reason, "problem", str(reason))
        step, total = int(train.get("step", 0)), 0
    return Summary(
        name=run.name,
        path=str(run.path),
        method=str(config.get("method", "?")),
        model=str(config.get("model", "?")),
        status=status,
        message=message,
        step=step,
        total=total,
        loss=number(train.get("loss")),
        accuracy=number(train.get(ACCURACY)),
        eval_loss=number(evaluation.get("loss")),
        eval_accuracy=number(evaluation.get(ACCURACY)),
        age=max(0.0, time.time() - run.started()),
        bytes=disk_bytes(run.path),
        reward=number(train.get("reward/mean")),
    )


def last_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """By kind ("train", "eval"), the newest row that was logged."""
    return {str(row.get("kind")): row for row in run.metrics()}


def changed_options(run: Run) -> dict[str, tuple[Any, Any]]:
    """option: (value, default) for the options of the run that are not at their default."""
    from dataclasses import MISSING

    from minialign.config import parts
    from minialign.methods import METHODS
    from minialign.training.settings import Settings

    config = run.config
    method = METHODS.get(str(config.get("method")))  # looking runs no file of the user's
    changed: dict[str, tuple[Any, Any]] = {}
    for _, options in parts(Settings) + (parts(method.config) if method else []):
        for option in options:
            default = option.default
            if default is MISSING or option.name not in config:
                continue
            if isinstance(default, tuple):
                default = list(default)  # as JSON has it
            if config[option.name] != default:
                changed[option.name] = config[option.name], default
    return changed


def files(run: Run) -> list[tuple[str, int, str]]:
    """(name, bytes, what it is) of what lies at the top of the run's folder."""
    listed = []
    with contextlib.suppress(OSError):
        for path in sorted(run.path.iterdir()):
            if not path.name.startswith("."):
                name = path.name + ("/" if path.is_dir() else "")
                listed.append((name, disk_bytes(path), FILES.get(path.name, "")))
    return listed


def disk_bytes(path: Path) -> int:
    """Bytes of a file, or of all files under a folder; those that vanish meanwhile do not count."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def number(value: Any) -> float | None:
    """The value as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def metric_keys(runs: Iterable[Run]) -> list[str]:
    """The names of the numbers that these runs logged, in order of first appearance."""
    items = [item for run in runs for row in run.metrics() for item in row.items()]
    keys = [key for key, value in items if key not in HIDDEN and number(value) is not None]
    return list(dict.fromkeys(keys))


def default_keys(runs: Sequence[Run]) -> list[str]:
    """The metrics to plot where none is named: rewards of answers and their KL, the loss, accuracy,
    margins, as far as they were logged."""
    known = metric_keys(runs)
    wanted = ("reward/mean", "reward/best", "kl", "loss", ACCURACY, "rewards/margins")
    return [key for key in wanted if key in known]


@dataclass(frozen=True)
class Sample:
    """An answer that was drawn while a run trained."""

    step: int
    prompt: str
    response: str
    reward: float | None
    kl: float | None


def samples(run: Run) -> list[Sample]:
    """The answers that a run kept in ``samples.jsonl``, the oldest first; rows that hold none are
    passed over."""
    kept = []
    for row in read_jsonl(run.path / "samples.jsonl"):
        prompt, response, step = row.get("prompt"), row.get("response"), row.get("step")
        if isinstance(prompt, list):
            turns = [turn for turn in prompt if isinstance(turn, dict)]
            prompt = "\n".join(str(turn.get("content", "")) for turn in turns)
        if isinstance(prompt, str) and isinstance(response, str):
            step = step if isinstance(step, int) else 0
            reward, kl = number(row.get("reward")), number(row.get("kl"))
            kept.append(Sample(step, prompt, response, reward, kl))
    return kept


def series(
    runs: Sequence[Run], keys: Sequence[str], kinds: Sequence[str], smooth: float = 0.0
) -> dict[str, list[Series]]:
    """For each key, one ``Series`` a run and kind that logged it.

    Args:
        smooth: weight in [0, 1) of the past in an exponential moving average (without the bias
            towards the first value) over the training steps; evaluations stay as they are.

    Raises:
        UserError: for a key that none of the runs logged, or when nothing has been logged.
    """
    known = metric_keys(runs)
    if not known:
        names = ", ".join(run.name for run in runs)
        raise UserError(f"nothing has been logged yet: {names}", "look again after its first steps")
    charts: dict[str, list[Series]] = {}
    for key in keys:
        if key not in known:
            raise UserError(f"no run here logged {key!r}", nearest(key, known))
        charts[key] = []
        for run in runs:
            for kind in kinds:
                points = [
                    (row["step"], value)
                    for row in run.metrics(kind)
                    if (value := number(row.get(key))) is not None
                ]
                if points:
                    steps, values = map(list, zip(*points, strict=True))
                    if smooth and kind == "train":
                        values = moving_average(values, smooth)
                    charts[key].append(Series(run.name, key, kind, steps, values))
    return {key: lines for key, lines in charts.items() if lines}


def moving_average(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average with the start's bias divided out (Adam's correction)."""
    average, share, result = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        share = weight * share + (1 - weight)
        result.append(average / share)
    return result
