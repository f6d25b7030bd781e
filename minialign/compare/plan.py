"""The parts of a comparison: which commands, in which order, each under a hash of its settings.

A part is a command of this program in a folder of its own, ``parts/NAME-HASH``; the hash is of its
arguments, of the files they name and of the parts they build on, so a folder that is there and
finished is the part, and a changed setting makes a new one and leaves the old alone.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign import __version__
from minialign.compare.config import Comparison, Kind, held_out
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

    one: Comparison
    out: Path
    flags: Flags
    parts: dict[str, Part] = dataclasses.field(default_factory=dict)

    def add(self, name: str, kind: str, words: list[str], **rest: Any) -> Part:
        """A part under the hash of its words; ``{}`` in a word stands for its folder."""
        stated = [word.replace(str(self.out), "OUT") for word in [*words, rest.get("spec", "")]]
        also = [rest.get(name) for name in ("budget", "charged")]
        text = json.dumps([__version__, kind, stated, _contents(stated), also])
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        folder = self.out / "parts" / f"{name}-{key}"
        filled = tuple(word.replace("{}", str(folder)) for word in words)
        part = Part(name, kind, filled, folder, **rest)
        self.parts[name] = part
        return part


def _contents(words: list[str]) -> dict[str, str]:
    """A hash of each file that the words name, alone or within (``python:FILE.py:function``)."""
    texts = {
        text
        for word in words
        for piece in word.split('"')
        for text in (piece, piece.partition("=")[2])
    }
    texts |= {text.partition(":")[2].rpartition(":")[0] for text in texts}
    files = {text for text in texts if 0 < len(text) < 1000 and Path(text).is_file()}
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in sorted(files)}


def plan(one: Comparison, out: Path, known: Flags) -> Plan:
    """The parts of a comparison.

    Args:
        known: what the command line says of a command's words, with its settings' names.

    Raises:
        UserError: for settings that a command does not have, or cannot use.
    """
    made = Plan(one, out, known)
    _check_training(made)
    imitate = one.data.demonstrations or one.data.pairs
    words = _train(made, "start", Kind("sft", "demonstrations"), one.start, imitate)
    start = made.add("start", "train", words, estimate=_steps(one, one.start))
    proxy, before = one.scorers.proxy, ["start"]
    if proxy == "reward":
        kind = Kind("reward", "pairs")
        words = _train(made, "reward", kind, one.reward, one.data.pairs)
        head = made.add("reward", "train", words, estimate=_steps(one, one.reward))
        proxy = f"reward:{head.result}"
        before.append("reward")
    for seed in one.top.seeds:
        _answers(made, "start", start, seed, start, proxy, before)
        for method, kind in one.kinds.items():
            _method(made, method, kind, seed, start, proxy, before)
    return made


def _method(
    made: Plan, method: str, kind: Kind, seed: int, start: Part, proxy: str, before: list[str]
) -> None:
    one, name, charged = made.one, f"{method}-s{seed}", ""
    common: dict[str, Any] = {"needs": tuple(before), "seed": seed}
    if not kind.rows:
        n, limit = one.sampling.best_of, one.data.heldout_limit
        held, gold = one.data.heldout, one.scorers.gold
        words = _sampling(one, start, proxy, seed, held, n, limit, gold)
        count = len(held_out(one)) * n * one.sampling.max_tokens
        made.add(name, "sample", words, method=method, estimate=count, **common)
        return
    imitate = one.data.demonstrations or one.data.pairs
    files = {"prompts": one.data.prompts, "pairs": one.data.pairs, "demonstrations": imitate}
    data = files.get(kind.rows, "")
    if kind.rows == "sampled":
        charged = f"sampled-s{seed}"
        if charged not in made.parts:
            n, limit = one.sampled.n, one.sampled.prompts
            words = _sampling(one, start, proxy, seed, one.data.prompts, n, limit)
            count = n * one.sampling.max_tokens * (limit or 100)
            made.add(charged, "sample", words, estimate=count, **common)
        data = str(made.parts[charged].result)
    words = _train(made, method, kind, one.own[method], data, seed, start, proxy)
    budget = ("max_tokens", float(one.budget.tokens))
    if one.budget.minutes:
        budget = ("max_minutes", one.budget.minutes)
    needs = [*before, charged] if charged else before
    common |= {"needs": tuple(needs), "budget": budget, "charged": charged}
    estimate = one.budget.tokens or round(one.budget.minutes * 60 * 200)
    trained = made.add(name, "train", words, method=method, estimate=estimate, **common)
    _answers(made, method, trained, seed, start, proxy, [*needs, name])


def _sampling(
    one: Comparison,
    start: Part,
    proxy: str,
    seed: int,
    prompts: str,
    n: int,
    limit: int,
    gold: str = "",
) -> list[str]:
    """The command that draws n answers of the start policy to each prompt, and scores them."""
    options = {"model": one.top.model, "adapter": start.result, "scorer": proxy, "seed": seed}
    drawn = ("temperature", "top_p", "max_tokens", "batch_size")
    options |= {name: getattr(one.sampling, name) for name in drawn}
    options |= {"output": "{}/sampled.jsonl"}
    words = ["best-of-n", *flags(options), "--resume", prompts, f"--n={n}"]
    words += [f"--gold={gold}"] if gold else []
    return words + ([f"--limit={limit}"] if limit else [])


def _answers(
    made: Plan, method: str, trained: Part, seed: int, start: Part, proxy: str, before: list[str]
) -> None:
    one = made.one
    spec = {
        "model": one.top.model,
        "adapter": str(trained.result),
        "reference": str(start.result),
        "train": one.data.prompts,
        "prompts": one.data.heldout,
        "limit": one.data.heldout_limit,
        "gold": one.scorers.gold,
        "proxy": proxy,
        "sampling": dataclasses.asdict(one.sampling),
        "seed": seed,
    }
    name = f"{method}-s{seed}-answers"
    words = ["compare", "--answers={}/spec.json"]
    count = len(held_out(one)) * (one.sampling.max_tokens + 100)
    told = {"spec": json.dumps(spec, indent=1), "estimate": count}
    made.add(name, "answers", words, needs=tuple(before), method=method, seed=seed, **told)


def _train(
    made: Plan,
    name: str,
    kind: Kind,
    own: Mapping[str, Any],
    data: str,
    seed: int = 0,
    start: Part | None = None,
    proxy: str = "",
) -> list[str]:
    """The command that trains, checked as far as that goes before it runs."""
    one = made.one
    table = name if start is None else f"method.{name}"
    names = made.flags([kind.command])
    for key in own:
        where = one.where(table, key)
        if key in TAKEN:
            raise UserError(f"{where}: {key} is what the comparison sets", "leave the line out")
        if key not in names:
            hint = nearest(key, names - TAKEN)
            raise UserError(f"{where}: {kind.command} has no setting {key!r}", hint)
    shared = {**USUAL, **kind.options, **one.training}
    for key, others in ALIKE.items():
        shared |= dict.fromkeys(others, getattr(one.sampling, key))
    options = {key: value for key, value in shared.items() if key in names} | dict(own)
    fixed = {"model": one.top.model, "data": data, "seed": seed, "out": "{}/run"}
    if start is not None:
        fixed["adapter"] = str(start.result)
    if kind.rows == "prompts":
        fixed["scorer"] = proxy
    words = [kind.command, *flags({**fixed, **options})]
    where = one.where(table)
    try:
        made.flags(words)
        if kind.command in METHODS:
            method = METHODS[kind.command]
            values = {**method.defaults, **fixed, **options, "data": [data]}
            check_settings(resolve(Settings, values, {}, where))
            method.check(resolve(method.config, values, {}, where))
    except UserError as reason:
        told = reason.problem if reason.problem.startswith(str(one.path)) else ""
        raise UserError(told or f"{where}: {reason.problem}", reason.hint) from None
    return words


def _check_training(made: Plan) -> None:
    """``[training]`` goes to every run, so its settings are those that all runs have."""
    one = made.one
    for key in one.training:
        check_keys({key: 0}, (Settings,), one.where("training", key))
        if key in TAKEN:
            where = one.where("training", key)
            raise UserError(f"{where}: {key} is what the comparison sets", "leave the line out")


def _steps(one: Comparison, own: Mapping[str, Any]) -> int:
    """Tokens of a run that prepares, roughly."""
    settings = {**one.training, **own}
    return int(settings.get("iters", 50)) * int(settings.get("batch_size", 4)) * 150
