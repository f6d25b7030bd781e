"""Every flag of every training method changes something that can be seen, on the tiny model.

One row of the table a flag: what is typed, and what must then differ from the same run without it.
A new field without a row fails here.
"""

import dataclasses
import functools
import operator
import random

import pytest
from support.flag_runs import (
    Outcome,
    Row,
    assert_differs,
    assert_repeats,
    filled,
    outcome,
    parser_of,
)
from support.places import written
from support.tiny import make_tiny_model

from minialign.config import resolve
from minialign.methods import METHODS
from minialign.training.settings import Settings
from minialign.training.start import start

# What every run here is told first; a flag that is typed again wins.
BASE = "--iters 3 --batch-size 2 --eval-split 0.25 --learning-rate 0.01 --max-seq-length 128"
# Ten layers: what a checkpoint saves is then half of all, far more than MLX's allocating ahead of
# the program, which is never the same.
DEEP = "--model {deep} --data {large} --batch-size 2 --max-seq-length 640 --iters 1 --eval-split 0"

COMMON = {
    "model": Row("--model {other}"),
    "data": Row("--data {held}", "said"),
    "map": Row("--map chosen=better rejected=worse", "error", "--data {renamed}"),
    "skip_bad": Row("--skip-bad", "error", "--data {bad}"),
    "eval_data": Row("--eval-data {held}", "said"),
    "eval_split": Row("--eval-split 0.5", "said"),
    "adapter": Row("--adapter {adapter}"),
    "reference_adapter": Row("--reference-adapter {adapter}"),
    "out": Row("--out {folder}/elsewhere", "folder"),
    "name": Row("--name mine", "folder"),
    "fine_tune_type": Row("--fine-tune-type dora", "tensors"),
    "num_layers": Row("--num-layers 1", "tensors"),
    "rank": Row("--rank 2", "tensors"),
    "scale": Row("--scale 7"),
    "rslora": Row("--rslora"),
    "dropout": Row("--dropout 0.4"),
    "keys": Row("--keys self_attn.q_proj mlp.up_proj", "tensors"),
    "batch_size": Row("--batch-size 3", "tokens"),
    "grad_accumulation_steps": Row("--grad-accumulation-steps 2", "tokens"),
    "epochs": Row("--epochs 2", "steps", "--data {held} --eval-split 0 --no-iters"),
    "iters": Row("--iters 2", "steps"),
    "max_minutes": Row("--max-minutes 1e-9", "steps"),
    "max_tokens": Row("--max-tokens 100", "steps"),
    "max_seq_length": Row("--max-seq-length 30", "tokens"),
    "learning_rate": Row("--learning-rate 0.001"),
    "lr_schedule": Row("--lr-schedule constant", "rates"),
    "warmup": Row("--warmup 2", "rates"),
    "betas": Row("--betas 0.5 0.9"),
    "weight_decay": Row("--weight-decay 1"),
    "grad_clip": Row("--grad-clip 0.001"),
    "grad_checkpoint": Row("--grad-checkpoint", "memory", DEEP, operator.lt),
    "share_prompts": Row("--no-share-prompts", "shared", "--data {long}"),
    "steps_per_report": Row("--steps-per-report 2", "logged"),
    "steps_per_eval": Row("--steps-per-eval 1", "evaluated"),
    "save_every": Row("--save-every 1", "saved"),
    "patience": Row("--patience 1", "steps", "--steps-per-eval 1 --learning-rate 9 --iters 9"),
    "select": Row("--select best", both="--steps-per-eval 1 --learning-rate 9"),
    "seed": Row("--seed 1"),
    "memory_limit": Row("--memory-limit 0.001", "error"),
}  # fmt: skip

OWN = {
    "sft": {"train_on": Row("--train-on last", both="--data {turns}")},
    "reward": {
        "margin": Row("--margin", both="--data {margins}"),
        "centering": Row("--centering 3"),
    },
    "dpo": {
        "loss": Row("--loss ipo"),
        "beta": Row("--beta 2"),
        "label_smoothing": Row("--label-smoothing 0.3"),
        "nll_weight": Row("--nll-weight 1"),
    },
    "slic": {
        "delta": Row("--delta 9", "losses"),
        "nll_weight": Row("--nll-weight 1"),
        "sft_data": Row("--sft-data {answers}"),
    },
    "rrhf": {
        "rank_weight": Row("--rank-weight 9"),
        "nll_weight": Row("--nll-weight 0"),
        "length_penalty": Row("--length-penalty 0"),
    },
    "kto": {
        "beta": Row("--beta 2"),
        "desirable_weight": Row("--desirable-weight 3"),
        "undesirable_weight": Row("--undesirable-weight 3"),
    },
    "orpo": {"beta": Row("--beta 2")},
    "simpo": {
        "beta": Row("--beta 9"),
        "gamma": Row("--gamma 9"),
        "nll_weight": Row("--nll-weight 1"),
    },
    "conditional": {
        "good": Row("--good Well."),
        "bad": Row("--bad Badly."),
        "place": Row("--place system"),
        "quantiles": Row("--quantiles 2"),
        "level": Row("--level Grade{{level}}", both="--quantiles 2"),
    },
}

ROWS = [("dpo", name) for name in COMMON] + [(m, name) for m, own in OWN.items() for name in own]


def test_every_field_of_every_method_has_a_row():
    assert set(COMMON) == {one.name for one in dataclasses.fields(Settings)}
    # those that sample have tests of their own: tests/training
    assert set(OWN) == {name for name, one in METHODS.items() if not (one.rounds or one.on_policy)}
    for name, own in OWN.items():
        assert set(own) == {one.name for one in dataclasses.fields(METHODS[name].config)}, name


def trained(name, arguments) -> Outcome:
    """Runs a method with these command-line arguments."""
    method, typed = METHODS[name], vars(parser_of(name).parse_args(arguments))
    kinds = (Settings, method.config)
    return outcome(lambda: start(method, *(resolve(kind, {}, typed, "") for kind in kinds)))


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
        "deep": make_tiny_model(folder / "deep", layers=10),
        "pairs": written(folder / "pairs.jsonl", rows),
        "held": written(folder / "held.jsonl", pairs(5, 2, 5)),
        "long": written(folder / "long.jsonl", pairs(8, 20, 24)),
        "large": written(folder / "large.jsonl", pairs(12, 120, 130)),
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
            flags = f"--model {{model}} --data {{pairs}} {BASE} {flags}"
            return trained(method, filled(flags, made))

        yield run


def test_the_same_run_twice_shows_no_difference(files):
    assert_repeats(files("dpo", ""), files("dpo", " "))


@pytest.mark.parametrize(("method", "name"), ROWS)
def test_every_flag_changes_something(files, method, name):
    row = COMMON[name] if name in COMMON else OWN[method][name]
    assert_differs(row, functools.partial(files, method))
