"""The names that ``import minialign`` gives: a whole loop in a notebook of ten lines.

Each is what a command does, without its flags: objects go in and come out. Progress is told on
stderr, errors that can be mended are ``UserError``. What is trained here is a run like any other:
``minialign runs list`` shows it, and ``minialign runs resume`` goes on with it after a kill.
"""

import contextlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from minialign.config import check_keys, resolve
from minialign.data.prompts import as_prompts
from minialign.durable import digest, json_line, write_atomic
from minialign.engine import Engine, Sampling
from minialign.engine.open import open_engine
from minialign.errors import UserError, nearest
from minialign.evaluate import win_rates as rates
from minialign.formats.kinds import row_of
from minialign.home import folder
from minialign.judge import Judge, JudgeOptions
from minialign.judge.ask import judge_comparisons
from minialign.judge.open import open_judge
from minialign.learn import losses
from minialign.methods import METHODS, Method
from minialign.methods.own import load_method
from minialign.methods.reference_texts import read_rows
from minialign.progress import Line
from minialign.records import (
    Comparison,
    Demonstration,
    Pair,
    Prompt,
    Prompted,
    Ranking,
    Rated,
    Record,
    Verdict,
)
from minialign.rewards.scorer import Scorer
from minialign.run_folder import Run
from minialign.samples.best_of_n import score_group
from minialign.samples.generate import plan_requests
from minialign.samples.groups import sample_groups
from minialign.scoring.open import open_scorer
from minialign.statistics.shares import percent
from minialign.training.narrate import narrate, stop_on_interrupt
from minialign.training.settings import Settings
from minialign.training.start import start

__all__ = ["Comparison", "Demonstration", "Pair", "Ranking", "Rated", "UserError", "losses"]
__all__ += ["ask_judge", "best_of_n", "generate", "load", "read", "scorer", "train", "win_rates"]

ModelLike = Engine | Run | str | None  # a loaded model, a run, a name; None: the embedded model


@dataclass(frozen=True)
class Best:
    """The best of n answers to a prompt, and all of them with their scores."""

    text: str
    score: float
    texts: list[str]
    scores: list[float]

    def __str__(self) -> str:
        return self.text


class WinRates(dict[str, Any]):
    """What ``minialign evaluate --json`` says of verdicts, readable as it stands."""

    def __repr__(self) -> str:
        lines = []
        for pair in self["pairs"]:
            told = f"{pair['a']} against {pair['b']}: {pair['prompts']} prompts"
            if "win_rate" in pair:
                value, low, high = (percent(share) for share in pair["win_rate"])
                told += f", wins {value} % (95 % interval {low} to {high} %)"
                told += "" if pair["difference_shown"] else ": no difference shown"
            lines.append(told + f", {pair['ties']} ties, {pair['unparsed']} unparsed")
        return "\n".join(lines)


def load(model: str | None = None, adapter: Run | str | Path | None = None) -> Engine:
    """Load a model, with the adapter of a run if one is given.

    Args:
        model: a name of ``minialign models list``, a hub id, a folder or a GGUF file; by default
            the adapter's base, or the embedded model. Fetched when it is not here.
        adapter: what ``train`` returned, a run's name, or a folder in mlx-lm's format.

    Raises:
        UserError: when there is no such model or adapter, or they do not fit together.
    """
    where = adapter.path if isinstance(adapter, Run) else adapter
    line = Line()
    try:
        return open_engine(model, where, lambda what, done, total: line.update(f"{what} {done}"))
    finally:
        line.clear()


def _engine(model: ModelLike) -> Engine:
    if isinstance(model, Engine):
        return model
    return load(adapter=model) if isinstance(model, Run) else load(model)


@overload
def generate(prompts: str, model: ModelLike = None, **sampling: Any) -> str: ...
@overload
def generate(prompts: Sequence[str], model: ModelLike = None, **sampling: Any) -> list[str]: ...
def generate(prompts: Any, model: ModelLike = None, *, seed: int = 0, **sampling: Any) -> Any:
    """Answer a prompt, or several at once; the answer, or a list of them.

    Args:
        model: loaded, a run, or a name.
        sampling: fields of ``Sampling``: temperature, max_tokens, top_p …

    Raises:
        UserError: for an empty prompt, one that is too long, or an unknown setting.
    """
    engine, asked = _engine(model), as_prompts([prompts] if isinstance(prompts, str) else prompts)
    waiting = plan_requests(engine, asked, seed=seed)
    texts = [""] * len(asked)
    for one in engine.complete(waiting, _sampling(sampling)):
        texts[one.prompt_index] = one.text
    return texts[0] if isinstance(prompts, str) else texts


def _sampling(values: dict[str, Any]) -> Sampling:
    check_keys(values, (Sampling,), "sampling")
    return Sampling(**values)


def read(*paths: str | Path) -> list[Record]:
    """The rows of files, folders or hub data sets, whatever their format.

    Raises:
        UserError: for the first row that cannot be used, with its file, line and fix.
    """
    return read_rows(paths)


def train(method: str, *, data: str | Path | Iterable[Record | str | Path], **settings: Any) -> Run:
    """Train with a method, and tell how it goes; returns the run, whose folder is its adapter.

    Ctrl-C (a notebook's stop button) saves it after the step under way.

    Args:
        method: a name of ``METHODS``, or a Python file that defines one.
        data: files, folders, hub data sets, or rows as ``read`` returns them.
        settings: those of the method and of every run: beta, iters, learning_rate, adapter …

    Raises:
        UserError: for an unknown method or setting (the nearest one is named), bad rows, too
            little memory, or a run that diverges.
    """
    chosen = _method(method)
    check_keys(settings, (Settings, chosen.config), f"train({method!r})")
    values = {**chosen.defaults, **{key: _plain(value) for key, value in settings.items()}}
    values["data"] = _files(data)
    common = resolve(Settings, values, {}, "train")
    own = resolve(chosen.config, values, {}, "train")
    line, main = Line(), threading.current_thread() is threading.main_thread()
    with stop_on_interrupt() if main else contextlib.nullcontext(threading.Event()) as stop:
        run, events = start(chosen, common, own, stop)
        try:
            for event in events:
                narrate(event, line)
        finally:
            line.clear()
    return run


def _method(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    if name.endswith(".py"):
        return load_method(name)
    raise UserError(f"there is no method {name!r}", nearest(name, METHODS))


def _plain(value: Any) -> Any:
    """A setting as a file would have it: runs, models and paths by their place."""
    place = value.path if isinstance(value, Run) else value
    return str(place) if isinstance(place, Path) else place


def _files(data: str | Path | Iterable[Record | str | Path]) -> list[str]:
    """The files that hold the data; rows are written into the home, under a hash of what they say,
    so that the run can be resumed."""
    items = [data] if isinstance(data, str | Path) else list(data)
    files = [str(item) for item in items if isinstance(item, str | Path)]
    rows = [item for item in items if not isinstance(item, str | Path)]
    if rows:
        text = "".join(json_line(row_of(row)) for row in rows)
        file = folder("cache/rows") / f"{digest(text)}.jsonl"
        if not file.exists():
            write_atomic(file, text)
        files.append(str(file))
    return files


def scorer(spec: str, model: ModelLike = None) -> Scorer:
    """What gives answers their numbers: "length", "exact", "reward:RUN", "python:FILE.py:function".

    Args:
        spec: as for ``--scorer``.
        model: loaded already; ``judge:self`` is this one, and a run on the same base shares its
            weights.

    Raises:
        UserError: when it does not exist, or its run, file or model is not there.
    """
    return open_scorer(spec, engine=None if model is None else _engine(model))


def best_of_n(
    prompt: str, by: Scorer, n: int = 8, model: ModelLike = None, *, seed: int = 0, **sampling: Any
) -> Best:
    """The best of n answers to a prompt, by a scorer; of ties the first.

    Raises:
        UserError: when all n answers would be the same, or the scorer cannot score them.
    """
    (group,) = sample_groups(_engine(model), as_prompts([prompt]), n, _sampling(sampling), seed)
    row = score_group(group, by)
    return Best(row["best"], max(row["scores"]), row["responses"], row["scores"])


def ask_judge(
    prompt: str | Prompt, a: str, b: str, judge: Judge | ModelLike = None, **options: Any
) -> Verdict:
    """Which of two answers is better, asked in both orders.

    Args:
        judge: a judge, a loaded model, a run, or what ``--judge`` takes: a name, "reward:RUN".
        options: fields of ``JudgeOptions``: template, url, explain, debias, criteria …

    Raises:
        UserError: there is no such judge, or an unknown option.
    """
    if not isinstance(judge, Judge):
        check_keys(options, (JudgeOptions,), "ask_judge")
        loaded = judge if isinstance(judge, Engine) else None
        spec = None if loaded else _plain(judge)
        judge = open_judge(spec, JudgeOptions(**options), engine=loaded)
    asked = Prompted(as_prompts([prompt])[0].prompt if isinstance(prompt, str) else prompt)
    (verdict,) = judge_comparisons(judge, [Comparison(asked.prompt, a, b)])
    return verdict


def win_rates(verdicts: Iterable[Verdict], a: str = "a", b: str = "b") -> WinRates:
    """How often the first answer wins: plain, length-controlled, free of the order's effect.

    A tie is half a win, an unparsed verdict none; intervals are over the prompts. ``a`` and ``b``
    name the two sides where the verdicts do not say which models they are of.
    """
    judgements = []
    for verdict in verdicts:
        first, second = (
            {"model": origin.get("model", name)}
            for origin, name in ((verdict.a_from, a), (verdict.b_from, b))
        )
        asked = replace(verdict.comparison, a_from=first, b_from=second)
        judgements.append((asked, verdict))
    if not judgements:
        raise UserError("no verdicts", "ask_judge gives one")
    return WinRates(rates.report(judgements, judgements[0][1].judge))
