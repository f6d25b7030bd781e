"""``minialign ppo``: good input, bad input, Ctrl-C, and what each of its flags changes."""

import dataclasses
import functools
import json
import operator
import re
import signal

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
from support.processes import ended, held, wait_until
from support.tiny import make_tiny_model

from minialign.cli import main
from minialign.config import resolve
from minialign.methods.ppo import METHOD, Config
from minialign.models.adapter import CONFIG, WEIGHTS
from minialign.run_folder import Run
from minialign.training.settings import Settings
from minialign.training.start import start

OWN = """
def letters(prompt, responses):
    return [sum(c.isascii() and c.isalpha() for c in r) / max(len(r), 1) for r in responses]

def words(prompt, responses):
    return [float(len(r.split())) for r in responses]

def broken(prompt, responses):
    raise ValueError("broken")
"""
SMALL = (
    "--n 2 --rollout-prompts 4 --response-length 6 --learning-rate 0.01 --iters 3 --batch-size 2"
    " --max-seq-length 128"
)
WORDS = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps"]


def rows(count, start=0, words=2):
    return [
        {"prompt": " ".join(WORDS[(i * j) % 7] for j in range(1, words + 1)) + f" {i}"}
        for i in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ppo")
    (path / "own.py").write_text(OWN)
    written(path / "prompts.jsonl", rows(10))
    return path


@pytest.fixture
def flags(tiny_model, folder):
    """A short run's flags."""
    given = f"--model {tiny_model} --data {folder}/prompts.jsonl {SMALL}"
    return [*given.split(), "--scorer", f"python:{folder}/own.py:letters"]


def test_a_run_from_end_to_end(home, flags, capsys):
    assert main(["ppo", *flags]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    folder = home / "runs" / "ppo-1"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "env.json", "metrics.jsonl", "summary.json", "outcome.json", "run.lock",
        "data.sha256", "checkpoints", "best", "samples.jsonl", "value_head.safetensors", WEIGHTS,
        CONFIG,
    }  # fmt: skip
    for said in (
        f"run ppo-1 in {folder}",
        "9 prompts to answer, 1 held out; 3 steps, 4 on each 4 x 2 answers",
        "memory: about",
        "held out, step 0: reward ",
        "phase 1: reward ",
        "step 1/3, loss ",
        "approx_kl ",
        "step 3/3, loss ",
        "held out, step 3: reward ",
        "finished: 3 steps in ",
        "minialign chat --adapter ppo-1",
    ):
        assert said in err, said
    run = Run(folder)
    assert (run.state().status, run.state().total) == ("finished", 3)
    assert [row["step"] for row in run.metrics("train")] == [1, 2, 3]
    assert run.config["method"] == "ppo"
    assert run.config["epochs"] == 10  # its own default
    kept = {path.name for path in run.checkpoint_path(3).iterdir()}
    assert kept == {"trainable.safetensors", "optimizer.safetensors", "phase.json"}


def test_the_adapter_is_used_like_any_other(home, flags, capsys):
    assert main(["ppo", *flags, "--name", "mine"]) == 0
    capsys.readouterr()
    assert main(["generate", "fox", "--adapter", "mine", "--max-tokens", "4"]) == 0
    assert main(["runs", "show", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "rollout_prompts" in shown
    assert "the value head" in shown
    assert main(["runs", "plot", "mine"]) == 0
    assert "reward/mean" in capsys.readouterr().out
    assert main(["ppo", *flags, "--adapter", "mine", "--rank", "16"]) == 0
    assert "rank: as in mine, where training starts" in capsys.readouterr().err


def test_events_as_json_are_all_of_stdout(home, flags, capsys):
    assert main(["ppo", *flags, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    events = [json.loads(line) for line in out.splitlines()]
    kinds = {event["kind"] for event in events}
    assert kinds == {"note", "sampling", "phase", "step", "eval", "saved", "end"}
    step = next(event["values"] for event in events if event["kind"] == "step")
    wanted = {"loss", "policy_loss", "value_loss", "approx_kl", "clipfrac", "entropy", "kl"}
    assert wanted | {"reward/mean", "explained_variance", "response_length", "ended"} <= set(step)
    assert events[-1]["values"]["status"] == "finished"


def test_ctrl_c_saves_and_prints_the_command_that_goes_on(home, flags, monkeypatch, capsys):
    go, folder = home / "go", home / "runs" / "mine"
    process = held(home, 4, go, "ppo", *flags, "--iters", "8", "--name", "mine")
    wait_until(process, lambda: folder.exists() and len(Run(folder).metrics("train")) == 3)
    process.send_signal(signal.SIGINT)
    go.touch()
    code, out, err = ended(process)
    assert (code, out) == (130, "")
    state = Run(folder).state()
    assert (state.status, state.total) == ("stopped", 8)
    assert Run(folder).checkpoints()[-1] == state.step
    (told,) = re.findall(r"go on with: minialign (.*)", err)
    monkeypatch.chdir(home)  # another folder: the paths in the run are whole
    assert main(told.split()) == 0
    err = capsys.readouterr().err
    assert f"going on after step {state.step}" in err
    assert [row["step"] for row in Run(folder).metrics("train")] == list(range(1, 9))


def test_prompts_of_any_kind(home, flags, folder, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("fox?\n\nquick dog?\nlazy?\n")
    assert main(["ppo", *flags, "--data", str(tmp_path / "lines.txt"), "--eval-split", "0"]) == 0
    assert "3 prompts to answer; " in capsys.readouterr().err
    asked = [{"prompt": f"fox {i}", "completion": str(i)} for i in range(4)]
    file = written(tmp_path / "asked.jsonl", asked)
    # the answer of a demonstration is what exact compares with
    exact = ["--scorer", "exact", "--data", str(file), "--eval-split", "0"]
    assert main(["ppo", *flags, *exact]) == 0


def test_relative_paths_are_whole_in_the_run(home, flags, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["ppo", *flags, "--scorer", "python:own.py:letters", "--name", "mine"]) == 0
    assert Run(home / "runs" / "mine").config["scorer"] == f"python:{folder}/own.py:letters"


def test_a_scorer_of_another_base_model_scores_the_text(home, flags, tmp_path, capsys):
    """A reward run may be of any base: it reads the text, with its own model."""
    other = make_tiny_model(tmp_path / "other", layers=3)
    found = [{**row, "chosen": "yes", "rejected": "no no"} for row in rows(8)]
    pairs = written(tmp_path / "pairs.jsonl", found)
    common = ["--data", str(pairs), "--iters", "4", "--learning-rate", "0.01"]
    assert main(["reward", *common, "--model", str(other), "--name", "there"]) == 0
    assert main(["reward", *common, "--model", flags[1], "--name", "here"]) == 0
    for name in ("here", "there"):
        assert main(["ppo", *flags, "--scorer", f"reward:{name}", "--name", f"by-{name}"]) == 0
        first = Run(home / "runs" / f"by-{name}").metrics("train")[0]
        assert first["reward/mean"] != 0
    assert main(["dpo", *common, "--model", flags[1], "--name", "pairs"]) == 0
    assert main(["ppo", *flags, "--scorer", "dpo:pairs", "--name", "by-pairs"]) == 0
    counts = {
        name: Run(home / "runs" / name).metrics("train")[0]["rollout_tokens"]
        for name in ("by-here", "by-pairs")
    }
    assert counts["by-pairs"] > counts["by-here"]  # two passes more, not one


BAD = [
    (["--n", "1", "--advantage", "rloo"], ["n = 1", "compares the answers", "--n 4"]),
    (["--n", "1", "--advantage", "group"], ["n = 1", "--advantage gae"]),
    (["--n", "0"], ["n = 0", "above 0"]),
    (["--advantage", "group", "--kl-estimator", "k1"], ["no gradient", "--kl-estimator"]),
    (["--advantage", "group", "--whiten-rewards"], ["standard deviation already"]),
    (["--temperature", "0"], ["temperature = 0", "above 0"]),
    (["--gamma", "1.5"], ["gamma = 1.5", "0 <= it <= 1"]),
    (["--gae-lambda", "-1"], ["gae_lambda = -1"]),
    (["--kl-rate", "9"], ["kl_rate = 9", "at most 5"]),
    (["--beta", "-1"], ["beta = -1", "0 or more"]),
    (["--scorer", "lenght"], ["there is no scorer 'lenght'", "'length'"]),
    (["--scorer", "reward:nothing"], ["there is no run 'nothing'"]),
    (["--scorer", "python:none.py:f"], ["there is no file", "none.py"]),
    (["--scorer", "python:{folder}/own.py:leters"], ["no function 'leters'", "'letters'"]),
    (["--scorer", "python:{folder}/own.py:broken"], ["ValueError: broken, line 9"]),
    (["--scorer", "exact"], ["exact"]),
    (["--data", "{folder}/none.jsonl"], ["none.jsonl: there is no such file"]),
    (["--max-seq-length", "16", "--response-length", "64"], ["nothing to train on"]),
    (["--memory-limit", "0.001"], ["needs about"]),
    (["--select", "best", "--eval-split", "0"], ["need held-out prompts"]),
    (["--adapter", "nothing"], ["there is no run 'nothing'"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda part: " ".join(part)[:50])
def test_a_mistake(home, flags, folder, capsys, arguments, words):
    mine = [argument.format(folder=folder) for argument in arguments]
    assert main(["ppo", *flags, *mine]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for word in words:
        assert word in err
    assert list((home / "runs").glob("*")) == []  # name and folder are free


def test_without_a_scorer(home, flags, capsys):
    assert main(["ppo", *flags[:-2]]) == 2
    assert "no --scorer says what an answer is worth" in capsys.readouterr().err


# -- every flag changes something -----------------------------------------------------------------


# Ten layers: what a checkpoint saves is then half of all, far more than MLX's allocating ahead of
# the program, which is never the same.
DEEP = "--model {deep} --data {long} --response-length 40 --iters 1 --eval-split 0"
DEEP += " --max-seq-length 512"
LONG = "--n 1 --rollout-prompts 8 --response-length 200 --max-seq-length 300"  # some end early
ROWS = {
    "scorer": Row("--scorer python:{folder}/own.py:words"),
    "advantage": Row("--advantage rloo"),
    "n": Row("--n 3"),
    "rollout_prompts": Row("--rollout-prompts 2"),
    "heldout_n": Row("--heldout-n 1", "rewards"),
    "rollout_batch": Row("--rollout-batch 1", "sampled", LONG),
    "response_length": Row("--response-length 4"),
    "temperature": Row("--temperature 0.5"),
    "ppo_epochs": Row("--ppo-epochs 1"),
    "clip": Row("--clip 0.001"),
    "value_clip": Row("--value-clip 0.001"),
    "value_weight": Row("--value-weight 3"),
    "gamma": Row("--gamma 0.5"),
    "gae_lambda": Row("--gae-lambda 0.2"),
    "beta": Row("--beta 1", both="--iters 6"),
    "kl_control": Row("--kl-control adaptive", "betas", "--iters 6"),
    "kl_target": Row("--kl-target 1e-6", "betas", "--iters 9 --kl-control adaptive"),
    "kl_rate": Row("--kl-rate 3", "betas", "--iters 6 --kl-control adaptive"),
    "kl_estimator": Row("--kl-estimator k3", both="--iters 6"),
    "eos_penalty": Row("--eos-penalty 5", both="--response-length 40 --n 8"),
    "whiten_rewards": Row("--whiten-rewards"),
    "whiten_advantages": Row("--no-whiten-advantages"),
    "model": Row("--model {other}"),
    "data": Row("--data {held}", "said"),
    "map": Row("--map prompt=question", "error", "--data {renamed}"),
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
    "keys": Row("--keys self_attn.q_proj mlp.up_proj", "tensors"),
    "batch_size": Row("--batch-size 3", "tokens"),
    "grad_accumulation_steps": Row("--grad-accumulation-steps 2", "tokens"),
    "epochs": Row("--epochs 2", "steps", "--no-iters --epochs 1"),
    "iters": Row("--iters 2", "steps"),
    "max_minutes": Row("--max-minutes 1e-9", "steps"),
    "max_tokens": Row("--max-tokens 100", "steps"),
    "max_seq_length": Row("--max-seq-length 36", "said", "--data {long}"),
    "learning_rate": Row("--learning-rate 0.001"),
    "lr_schedule": Row("--lr-schedule cosine", "rates"),
    "warmup": Row("--warmup 2", "rates"),
    "betas": Row("--betas 0.5 0.9"),
    "weight_decay": Row("--weight-decay 1"),
    "grad_clip": Row("--grad-clip 0.001"),
    "grad_checkpoint": Row("--grad-checkpoint", "memory", DEEP, operator.lt),
    "share_prompts": Row("--no-share-prompts", "shared", "--data {long}"),
    "steps_per_report": Row("--steps-per-report 2", "logged"),
    "steps_per_eval": Row("--steps-per-eval 1", "evaluated"),
    "save_every": Row("--save-every 1", "saved"),
    "patience": Row("--patience 1", "steps", "--steps-per-eval 1 --iters 12"),
    "select": Row("--select best", "weights", "--steps-per-eval 1 --iters 12 --eval-split 0.2"),
    "seed": Row("--seed 1"),
    "memory_limit": Row("--memory-limit 0.001", "error"),
}  # fmt: skip


def test_every_field_has_a_row():
    names = {one.name for kind in (Config, Settings) for one in dataclasses.fields(kind)}
    assert set(ROWS) == names - {"dropout"}  # no such flag here


def trained(arguments) -> Outcome:
    """Runs PPO with these command-line arguments."""
    typed = vars(parser_of("ppo").parse_args(arguments))
    usual = {"lr_schedule": "constant", "warmup": 0.0}
    settings, config = (resolve(kind, usual, typed, "") for kind in (Settings, Config))
    return outcome(lambda: start(METHOD, settings, config))


@pytest.fixture(scope="module")
def run(folder, tiny_model):
    """Runs with given flags, each once; names in braces as in the table."""
    renamed = [{"wish": row["prompt"], "other": 1} for row in rows(10)]
    made = {
        "folder": folder,
        "model": tiny_model,
        "other": make_tiny_model(folder / "other", seed=7),
        "deep": make_tiny_model(folder / "deep", layers=10),
        "held": written(folder / "held.jsonl", rows(6, 50)),
        "long": written(folder / "long.jsonl", [*rows(5, 0, 30), *rows(5)]),
        "renamed": written(folder / "renamed.jsonl", renamed),
        "bad": written(folder / "bad.jsonl", [*rows(6), {"prompt": 5}]),
    }
    base = f"--model {tiny_model} --data {folder}/prompts.jsonl {SMALL}"
    base += f" --scorer python:{folder}/own.py:letters"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIALIGN_HOME", str(folder / "home"))
        made["adapter"] = folder / "adapter"
        assert not trained(f"{base} --out {made['adapter']}".split()).error

        @functools.cache
        def one(flags):
            return trained(filled(f"{base} {flags}", made))

        yield one


def test_the_same_run_twice_shows_no_difference(run):
    assert_repeats(run(""), run(" "))


@pytest.mark.parametrize("name", ROWS)
def test_every_flag_changes_something(run, name):
    assert_differs(ROWS[name], run)
