"""The parts of a comparison: which commands, in which order, each under a hash of its settings.

A part is a command of this program in a folder of its own, ``parts/NAME-HASH``; the hash is of its
arguments, of the files they name and of the parts they build on, so a folder that is there and
finished is the part, and a changed setting makes a new one and leaves the old alone.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign import __version__
from minialign.compare.config import Experiment, Kind, held_out
from minialign.config import check_keys, resolve
from minialign.errors import UserError, nearest
from minialign.methods import METHODS
from minialign.run_folder import flags
from minialign.training.settings import Settings
from minialign.training.settings import check as check_settings

# What comparisons set themselves, in every table of settings.
TAKEN = {"model", "data", "adapter", "out", "name", "seed", "scorer"}
TAKEN |= {"max_tokens", "max_minutes"}
# A comparison has its own held-out prompts; a part that is killed loses few steps.
USUAL = {"eval_split": 0.0, "save_every": 10}
# One setting of [sampling] under the names that commands have for it.
ALIKE = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "max_tokens": ("response_tokens", "response_length"),
    "batch_size": ("sampling_batch_size", "rollout_batch"),
}

# the words of a command -> the names of its settings; raises a UserError for what it cannot parse
Flags = Callable[[list[str]], set[str]]


@dataclass(frozen=True)
class Part:
    """One command of a comparison."""

    name: str  # "start", "reward", "sampled-s0", "dpo-s0", "dpo-s0-answers"
    kind: str  # "train" (a run), "sample" (a file) or "answers" (of a policy, judged)
    words: tuple[str, ...]  # the command, without what is left of the budget
    folder: Path
    needs: tuple[str, ...] = ()
    method: str = ""
    seed: int = 0
    estimate: int = 0  # tokens it will use, roughly
    budget: tuple[str, float] | None = None  # ("max_tokens", 24000)
    charged: str = ""  # the part whose tokens and seconds are taken off the budget
    spec: str = ""  # of answers: the JSON that the command reads

    @property
    def result(self) -> Path:
        """What others build on: the run, or the file of answers."""
        return self.folder / {"train": "run", "sample": "sampled.jsonl"}.get(self.kind, "answers")


@dataclass
class Plan:
    """All parts, in an order in which each comes after what it needs."""

    one: Experiment
    out: Path
    flags: Flags
    parts: dict[str, Part] = dataclasses.field(default_factory=dict)

    @property
    def start(self) -> Path:
        """The policy that all methods start from, once it is planned."""
        return self.parts["start"].result

    @property
    def proxy(self) -> str:
        """The scorer that methods see, once what it needs is planned."""
        head = self.parts.get("reward")
        return f"reward:{head.result}" if head else self.one.scorers.proxy

    def add(self, name: str, kind: str, words: list[str], **rest: Any) -> Part:
        """A part under the hash of its words; ``{}`` in a word stands for its folder."""
        stated = [word.replace(str(self.out), "OUT") for word in [*words, rest.get("spec", "")]]
        also = [rest.get(name) for name in ("budget", "charged")]
        text = json.dumps([__version__, kind, stated, _contents(stated), also])
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        folder = self.out / "parts" / f"{name}-{key}"
        filled = tuple(word.replace("{}", str(folder)) for word in words)
        self.parts[name] = Part(name, kind, filled, folder, **rest)
        return self.parts[name]


def _contents(words: list[str]) -> dict[str, str]:
    """A hash of each file that the words name, alone or within (``python:FILE.py:function``)."""
    pieces = [piece for word in words for piece in word.split('"')]
    texts = {text for piece in pieces for text in (piece, piece.partition("=")[2])}
    texts |= {text.partition(":")[2].rpartition(":")[0] for text in texts}
    files = {text for text in texts if 0 < len(text) < 1000 and Path(text).is_file()}
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in sorted(files)}


def plan(one: Experiment, out: Path, known: Flags) -> Plan:
    """The parts of a comparison.

    Args:
        known: what the command line says of a command's words, with its settings' names.

    Raises:
        UserError: for settings that a command does not have, or cannot use.
    """
    made = Plan(one, out, known)
    for key in one.training:  # goes to every run, so it has settings that all runs have
        check_keys({key: 0}, (Settings,), one.file.where("training", key))
        _check_free(one, "training", key)
    prepared = {"start": (Kind("sft", "demonstrations"), one.start)}
    if one.scorers.proxy == "reward":
        prepared["reward"] = Kind("reward", "pairs"), one.reward
    for name, (kind, own) in prepared.items():
        words = _train(made, name, kind, own, _data(one, kind))
        settings = {**one.training, **own}
        steps = int(settings.get("iters", 50)) * int(settings.get("batch_size", 4))
        made.add(name, "train", words, estimate=steps * 150)
    before = tuple(prepared)
    for seed in one.top.seeds:
        _answers(made, "start", made.parts["start"], seed, before)
        for method, kind in one.kinds.items():
            _method(made, method, kind, seed, before)
    return made


def _method(made: Plan, method: str, kind: Kind, seed: int, before: tuple[str, ...]) -> None:
    """The parts of one method and seed; the first that learns from samples has them drawn."""
    one, name, charged, data = made.one, f"{method}-s{seed}", "", _data(made.one, kind)
    common: dict[str, Any] = {"needs": before, "seed": seed}
    if not kind.rows:
        n, limit, gold = one.sampling.best_of, one.data.heldout_limit, one.scorers.gold
        words = _sampling(made, seed, one.data.heldout, n, limit, gold)
        count = len(held_out(one)) * n * one.sampling.max_tokens
        made.add(name, "sample", words, method=method, estimate=count, **common)
        return
    if kind.rows == "sampled":
        charged = f"sampled-s{seed}"
        if charged not in made.parts:
            n, limit = one.sampled.n, one.sampled.prompts
            words = _sampling(made, seed, one.data.prompts, n, limit)
            count = n * one.sampling.max_tokens * (limit or 100)
            made.add(charged, "sample", words, estimate=count, **common)
        data = str(made.parts[charged].result)
    words = _train(made, method, kind, one.own[method], data, seed)
    budget = ("max_tokens", float(one.budget.tokens))
    if one.budget.minutes:
        budget = ("max_minutes", one.budget.minutes)
    needs = (*before, charged) if charged else before
    common |= {"needs": needs, "budget": budget, "charged": charged}
    estimate = one.budget.tokens or round(one.budget.minutes * 60 * 200)
    trained = made.add(name, "train", words, method=method, estimate=estimate, **common)
    _answers(made, method, trained, seed, (*needs, name))


def _data(one: Experiment, kind: Kind) -> str:
    """The file with the rows that a kind of training wants, if it is one of the comparison's."""
    if kind.rows == "demonstrations":
        return one.data.demonstrations or one.data.pairs
    return {"prompts": one.data.prompts, "pairs": one.data.pairs}.get(kind.rows, "")


def _sampling(made: Plan, seed: int, prompts: str, n: int, limit: int, gold: str = "") -> list[str]:
    """The command that draws n answers of the start policy to each prompt, and scores them."""
    top = {"model": made.one.top.model, "adapter": made.start, "scorer": made.proxy, "seed": seed}
    drawn = ("temperature", "top_p", "max_tokens", "batch_size")
    options = top | {name: getattr(made.one.sampling, name) for name in drawn}
    options |= {"output": "{}/sampled.jsonl"}
    words = ["best-of-n", *flags(options), "--resume", prompts, f"--n={n}"]
    words += [f"--gold={gold}"] if gold else []
    return words + ([f"--limit={limit}"] if limit else [])


def _answers(made: Plan, method: str, trained: Part, seed: int, needs: tuple[str, ...]) -> None:
    one = made.one
    spec = {
        "model": one.top.model,
        "adapter": str(trained.result),
        "reference": str(made.start),
        "train": one.data.prompts,
        "prompts": one.data.heldout,
        "limit": one.data.heldout_limit,
        "gold": one.scorers.gold,
        "proxy": made.proxy,
        "sampling": dataclasses.asdict(one.sampling),
        "seed": seed,
    }
    name, words = f"{method}-s{seed}-answers", ["compare", "--answers={}/spec.json"]
    count = len(held_out(one)) * (one.sampling.max_tokens + 100)
    told = {"spec": json.dumps(spec, indent=1), "estimate": count}
    made.add(name, "answers", words, needs=needs, method=method, seed=seed, **told)


def _train(
    made: Plan, name: str, kind: Kind, own: dict[str, Any], data: str, seed: int | None = None
) -> list[str]:
    """The command that trains, checked as far as that goes before it runs; ``seed`` is None of what
    is prepared for all methods."""
    one = made.one
    table = name if seed is None else f"method.{name}"
    names = made.flags([kind.command])
    for key in own:
        _check_free(one, table, key)
        if key not in names:
            said = f"{one.file.where(table, key)}: {kind.command} has no setting {key!r}"
            raise UserError(said, nearest(key, names - TAKEN))
    shared = {**USUAL, **kind.options, **one.training}
    for key, others in ALIKE.items():
        shared |= dict.fromkeys(others, getattr(one.sampling, key))
    options = {key: value for key, value in shared.items() if key in names} | own
    fixed = {"model": one.top.model, "data": data, "seed": seed or 0, "out": "{}/run"}
    if seed is not None:
        fixed["adapter"] = str(made.start)
    if kind.rows == "prompts":
        fixed["scorer"] = made.proxy
    words = [kind.command, *flags({**fixed, **options})]
    where = one.file.where(table)
    try:
        made.flags(words)
        if kind.command in METHODS:
            method = METHODS[kind.command]
            values = {**method.defaults, **fixed, **options, "data": [data]}
            check_settings(resolve(Settings, values, {}, where))
            method.check(resolve(method.config, values, {}, where))
    except UserError as reason:
        told = reason.problem if reason.problem.startswith(str(one.file.path)) else ""
        raise UserError(told or f"{where}: {reason.problem}", reason.hint) from None
    return words


def _check_free(one: Experiment, table: str, key: str) -> None:
    if key in TAKEN:
        where = one.file.where(table, key)
        raise UserError(f"{where}: {key} is what the comparison sets", "leave the line out")
