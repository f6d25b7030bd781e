"""Every flag of every training method changes something that can be seen, on the tiny model.

One row of the table a flag: what is typed, and what must then differ from the same run without it.
A new field without a row fails here.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import pytest
from tiny import make_tiny_model

from minialign.cli.train import add_arguments
from minialign.config import resolve
from minialign.errors import UserError
from minialign.methods import METHODS
from minialign.models.adapter import WEIGHTS
from minialign.tasks.settings import Settings
from minialign.tasks.train import start

# What every run here is told first; a flag that is typed again wins.
BASE = "--iters 3 --batch-size 2 --eval-split 0.25 --learning-rate 0.01 --max-seq-length 128"


@dataclass(frozen=True)
class Row:
    """The flag with its value, what must differ, and flags that both runs have."""

    flag: str
    differs: str
    both: str = ""
    how: Callable[[Any, Any], bool] = operator.ne  # (with the flag, without it)


COMMON = {
    "model": Row("--model {other}", "weights"),
    "data": Row("--data {held}", "rows"),
    "map": Row("--map chosen=better rejected=worse", "error", "--data {renamed}"),
    "skip_bad": Row("--skip-bad", "error", "--data {bad}"),
    "eval_data": Row("--eval-data {held}", "rows"),
    "eval_split": Row("--eval-split 0.5", "rows"),
    "adapter": Row("--adapter {adapter}", "weights"),
    "reference_adapter": Row("--reference-adapter {adapter}", "weights"),
    "out": Row("--out {folder}/elsewhere", "folder"),
    "name": Row("--name mine", "folder"),
    "fine_tune_type": Row("--fine-tune-type dora", "tensors"),
    "num_layers": Row("--num-layers 1", "tensors"),
    "rank": Row("--rank 2", "tensors"),
    "scale": Row("--scale 7", "weights"),
    "rslora": Row("--rslora", "weights"),
    "dropout": Row("--dropout 0.4", "weights"),
    "keys": Row("--keys self_attn.q_proj mlp.up_proj", "tensors"),
    "batch_size": Row("--batch-size 3", "tokens"),
    "grad_accumulation_steps": Row("--grad-accumulation-steps 2", "tokens"),
    "epochs": Row("--epochs 2", "steps", "--data {held} --eval-split 0 --no-iters"),
    "iters": Row("--iters 2", "steps"),
    "max_minutes": Row("--max-minutes 1e-9", "steps"),
    "max_tokens": Row("--max-tokens 100", "steps"),
    "max_seq_length": Row("--max-seq-length 30", "tokens"),
    "learning_rate": Row("--learning-rate 0.001", "weights"),
    "lr_schedule": Row("--lr-schedule constant", "rates"),
    "warmup": Row("--warmup 2", "rates"),
    "betas": Row("--betas 0.5 0.9", "weights"),
    "weight_decay": Row("--weight-decay 1", "weights"),
    "grad_clip": Row("--grad-clip 0.001", "weights"),
    "grad_checkpoint": Row("--grad-checkpoint", "memory", "--data {long}", operator.lt),
    "share_prompts": Row("--no-share-prompts", "shared", "--data {long}"),
    "steps_per_report": Row("--steps-per-report 2", "logged"),
    "steps_per_eval": Row("--steps-per-eval 1", "evaluated"),
    "save_every": Row("--save-every 1", "saved"),
    "patience": Row("--patience 1", "steps", "--steps-per-eval 1 --learning-rate 9 --iters 9"),
    "select": Row("--select best", "weights", "--steps-per-eval 1 --learning-rate 9"),
    "seed": Row("--seed 1", "weights"),
    "memory_limit": Row("--memory-limit 0.001", "error"),
}  # fmt: skip

OWN = {
    "sft": {"train_on": Row("--train-on last", "weights", "--data {turns}")},
    "reward": {
        "margin": Row("--margin", "weights", "--data {margins}"),
        "centering": Row("--centering 3", "weights"),
    },
    "dpo": {
        "loss": Row("--loss ipo", "weights"),
        "beta": Row("--beta 2", "weights"),
        "label_smoothing": Row("--label-smoothing 0.3", "weights"),
        "nll_weight": Row("--nll-weight 1", "weights"),
    },
    "slic": {
        "delta": Row("--delta 9", "losses"),
        "nll_weight": Row("--nll-weight 1", "weights"),
        "sft_data": Row("--sft-data {answers}", "weights"),
    },
    "rrhf": {
        "rank_weight": Row("--rank-weight 9", "weights"),
        "nll_weight": Row("--nll-weight 0", "weights"),
        "length_penalty": Row("--length-penalty 0", "weights"),
    },
    "kto": {
        "beta": Row("--beta 2", "weights"),
        "desirable_weight": Row("--desirable-weight 3", "weights"),
        "undesirable_weight": Row("--undesirable-weight 3", "weights"),
    },
    "orpo": {"beta": Row("--beta 2", "weights")},
    "simpo": {
        "beta": Row("--beta 9", "weights"),
        "gamma": Row("--gamma 9", "weights"),
        "nll_weight": Row("--nll-weight 1", "weights"),
    },
    "conditional": {
        "good": Row("--good Well.", "weights"),
        "bad": Row("--bad Badly.", "weights"),
        "place": Row("--place system", "weights"),
        "quantiles": Row("--quantiles 2", "weights"),
        "level": Row("--level Grade{{level}}", "weights", "--quantiles 2"),
    },
}

ROWS = [("dpo", name) for name in COMMON] + [(m, name) for m, own in OWN.items() for name in own]


def test_every_field_of_every_method_has_a_row():
    assert set(COMMON) == {one.name for one in dataclasses.fields(Settings)}
    assert set(OWN) == set(METHODS)
    for name, method in METHODS.items():
        assert set(OWN[name]) == {one.name for one in dataclasses.fields(method.config)}, name


@dataclass
class Outcome:
    """What can be seen of a run."""

    error: str = ""
    folder: str = ""
    weights: str = ""
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rows: str = ""
    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    logged: list[int] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    memory: float = 0.0
    shared: int = 0


def trained(method, arguments) -> Outcome:
    """Runs a method with these command-line arguments."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, method)
    typed = vars(parser.parse_args(arguments))
    chosen = METHODS[method]
    outcome = Outcome()
    mx.clear_cache()
    try:
        run, events = start(
            chosen, resolve(Settings, {}, typed, ""), resolve(chosen.config, {}, typed, "")
        )
        happened = list(events)
    except UserError as reason:
        return Outcome(error=reason.problem)
    steps = [event for event in happened if event.kind == "step"]
    outcome.folder = str(run.path)
    outcome.weights = hashlib.sha256((run.path / WEIGHTS).read_bytes()).hexdigest()
    arrays: Any = mx.load(str(run.path / WEIGHTS))
    outcome.tensors = {name: value.shape for name, value in arrays.items()}
    outcome.rows = next(event.text for event in happened if "to train on" in event.text)
    outcome.tokens = [event.values["tokens"] for event in steps]
    outcome.steps = len(steps)
    outcome.losses = [event.values["loss"] for event in steps]
    outcome.rates = [event.values["learning_rate"] for event in steps]
    outcome.logged = [row["step"] for row in run.metrics("train")]
    outcome.evaluated = [row["step"] for row in run.metrics("eval")]
    outcome.saved = [event.step for event in happened if event.kind == "saved"]
    summary = json.loads((run.path / "summary.json").read_text())
    outcome.memory, outcome.shared = summary["peak_memory"], summary["shared_batches"]
    return outcome


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model):
    """Data of every kind, another model and an adapter; names as in the table."""
    folder = tmp_path_factory.mktemp("flags")
    chance = random.Random(0)
    words = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps", "yes", "no"]

    def text(low, high):
        return " ".join(chance.choices(words, k=chance.randint(low, high)))

    def pairs(n, low, high):
        return [
            {
                "prompt": f"{text(low, high)} {i}",
                "chosen": text(1, 5),
                "rejected": f"no {text(1, 5)}",
            }
            for i in range(n)
        ]

    rows = pairs(12, 2, 12)
    turns = [
        {"messages": [{"role": role, "content": text(1, 4)} for role in ["user", "assistant"] * 2]}
        for _ in range(12)
    ]
    renamed = [
        {"prompt": row["prompt"], "better": row["chosen"], "worse": row["rejected"]} for row in rows
    ]
    answers = [{"prompt": row["prompt"], "completion": "brown fox"} for row in rows]
    margins = [{**row, "margin": 0.5 + i} for i, row in enumerate(rows)]
    made = {
        "folder": folder,
        "model": tiny_model,
        "other": make_tiny_model(folder / "other", seed=7),
        "pairs": written(folder / "pairs.jsonl", rows),
        "held": written(folder / "held.jsonl", pairs(5, 2, 5)),
        "long": written(folder / "long.jsonl", pairs(8, 20, 24)),
        "renamed": written(folder / "renamed.jsonl", renamed),
        "bad": written(folder / "bad.jsonl", [*rows, {"prompt": "x", "chosen": 5}]),
        "turns": written(folder / "turns.jsonl", turns),
        "margins": written(folder / "margins.jsonl", margins),
        "answers": written(folder / "answers.jsonl", answers),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIALIGN_HOME", str(folder / "home"))
        flags = f"--model {tiny_model} --data {made['pairs']} --out {folder}/adapter {BASE}"
        assert not trained("sft", flags.split()).error
        made["adapter"] = folder / "adapter"

        @functools.cache
        def run(method, flags):
            whole = f"--model {{model}} --data {{pairs}} {BASE} {flags}"
            if "--no-iters" in whole:
                whole = whole.replace("--no-iters", "").replace("--iters 3", "")
            return trained(method, [part.format(**made) for part in whole.split()])

        yield run


def test_the_same_run_twice_shows_no_difference(files):
    one, other = files("dpo", ""), files("dpo", " ")
    assert one.folder != other.folder
    ignored = {"folder": "", "memory": 0}
    assert dataclasses.replace(one, **ignored) == dataclasses.replace(other, **ignored)
    assert not one.error
    assert abs(one.memory - other.memory) < 0.05 * one.memory


@pytest.mark.parametrize(("method", "name"), ROWS)
def test_every_flag_changes_something(files, method, name):
    row = COMMON[name] if name in COMMON else OWN[method][name]
    without, with_it = files(method, row.both), files(method, f"{row.both} {row.flag}".strip())
    if row.differs != "error":
        assert (with_it.error, without.error) == ("", "")
    before, after = getattr(without, row.differs), getattr(with_it, row.differs)
    assert row.how(after, before), (before, after)
