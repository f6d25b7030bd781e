"""Runs of PPO, RLOO and GRPO: that they learn, stop, resume and say what is wrong."""

import hashlib
import json
import math
import threading
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support.places import written
from support.processes import killed

from minialign.errors import UserError
from minialign.methods.ppo import METHOD, Config
from minialign.models.adapter import WEIGHTS, attach
from minialign.models.head import load_value_head
from minialign.models.load import load
from minialign.run_folder import Run
from minialign.training.settings import Settings
from minialign.training.start import resume, start

LETTERS = """
def letters(prompt, responses):
    return [sum(c.isascii() and c.isalpha() for c in r) / max(len(r), 1) for r in responses]

def flat(prompt, responses):
    return [3.0 for _ in responses]

def raises(prompt, responses):
    raise ValueError("broken")

def nan(prompt, responses):
    return [float("nan")] * len(responses)

def few(prompt, responses):
    return [1.0]
"""


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo")
    (folder / "own.py").write_text(LETTERS)
    words = ["fox", "dog", "quick", "lazy", "brown", "over"]
    rows = [{"prompt": f"{words[i % 6]} {words[i % 5]} {i}"} for i in range(12)]
    written(folder / "prompts.jsonl", rows)
    return folder


SMALL = {"n": 4, "rollout_prompts": 4, "response_length": 8, "eos_penalty": 0.0}


def settings(tiny_model, prompts, **changes):
    given = {
        "model": str(tiny_model), "data": (str(prompts / "prompts.jsonl"),), "eval_split": 0.0,
        "learning_rate": 0.01, "lr_schedule": "constant", "warmup": 0.0, "iters": 4,
        "batch_size": 2, "max_seq_length": 128,
    }  # fmt: skip
    return Settings(**{**given, **changes})


def config(prompts, function="letters", **changes):
    return Config(**{"scorer": f"python:{prompts}/own.py:{function}", **SMALL, **changes})


def finished(chosen, own):
    run, events = start(METHOD, chosen, own)
    return run, list(events)


def phases(events):
    return [event.values for event in events if event.kind == "phase"]


@pytest.mark.parametrize("kind", ["gae", "rloo", "group"])
def test_the_reward_rises(tiny_model, prompts, home, kind):
    own = config(prompts, advantage=kind, n=8, beta=0.01, rollout_prompts=6)
    chosen = settings(tiny_model, prompts, iters=48, batch_size=3, eval_split=0.25)
    run, events = finished(chosen, own)
    rewards = [values["reward/mean"] for values in phases(events)]
    early, late = rewards[:4], rewards[-4:]
    error = math.sqrt(np.var(early, ddof=1) / 4 + np.var(late, ddof=1) / 4)
    assert np.mean(late) - np.mean(early) > max(4 * error, 0.1), rewards
    before, after = [event.values for event in events if event.kind == "eval"]
    assert after["reward/low"] > before["reward/high"]
    assert after["kl"] > before["kl"] == pytest.approx(0, abs=1e-4)
    if kind == "gae":
        assert load_value_head(run.path, 64)[1] != (0.0, 1.0)
        # While rewards still differ: in the end nearly all answers get the most there is.
        explained = [row["explained_variance"] for row in run.metrics("train")[:24]]
        assert np.mean(explained) > 0.005, explained


def test_new_answers_are_on_policy_and_the_diagnostics_say_so(tiny_model, prompts, home):
    run, _ = finished(settings(tiny_model, prompts, iters=8), config(prompts))
    rows = run.metrics("train")
    assert len(rows) == 8
    first_of_phase = [row for row in rows if row["rollout_tokens"]]
    assert [row["step"] for row in first_of_phase] == [1, 5]
    for row in first_of_phase:
        assert row["ratio"] == pytest.approx(1, abs=1e-4)
        assert row["approx_kl"] == pytest.approx(0, abs=1e-5)
        assert row["clipfrac"] == 0
    assert rows[3]["approx_kl"] > 1e-6
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[4]["kl"] != pytest.approx(0, abs=1e-4)
    assert 4.5 < rows[0]["entropy"] < math.log(320)  # a random model is nearly uniform
    named = {"reward/mean", "beta", "response_length", "ended", "explained_variance", "value_loss"}
    assert named <= set(rows[0])
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["tokens"] == sum(row["tokens"] for row in rows)
    assert 0 < summary["rollout_tokens"] < summary["tokens"]
    assert (summary["status"], summary["steps"]) == ("finished", 8)
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().split("\n")
               if line]  # fmt: skip
    assert [row["phase"] for row in samples] == [0] * 4 + [1] * 4
    assert {"prompt", "response", "reward", "kl", "ended"} <= set(samples[0])


def test_a_huge_beta_keeps_the_policy_at_the_reference(tiny_model, prompts, home):
    for kind in ("gae", "rloo", "group"):
        last = {}
        for beta in (0.0, 10.0):
            own = config(prompts, advantage=kind, beta=beta, n=8)
            chosen = settings(tiny_model, prompts, iters=20, learning_rate=0.003)
            _, events = finished(chosen, own)
            last[beta] = phases(events)[-1]["kl"]
        assert abs(last[10.0]) < 0.1 * last[0.0], (kind, last)


def test_beta_is_steered_towards_the_target(tiny_model, prompts, home):
    for target, rises in ((1e-6, True), (1e6, False)):
        own = config(prompts, kl_control="adaptive", kl_target=target)
        betas = [values["beta"] for values in phases(finished(
            settings(tiny_model, prompts, iters=16), own)[1])]  # fmt: skip
        assert betas[0] == 0.05
        assert betas[2:] == sorted(betas[2:], reverse=not rises)
        assert (betas[-1] > 0.05) == rises
    fixed = phases(finished(settings(tiny_model, prompts, iters=16), config(prompts))[1])
    assert {values["beta"] for values in fixed} == {0.05}


@pytest.mark.parametrize("kind", ["rloo", "group"])
def test_held_out_prompts_may_have_one_answer_each(tiny_model, prompts, home, kind):
    own = config(prompts, advantage=kind, heldout_n=1)
    run, _ = finished(settings(tiny_model, prompts, eval_split=0.25), own)
    assert all(math.isfinite(row["reward/mean"]) for row in run.metrics("eval"))


def test_equal_rewards_leave_the_weights_alone(tiny_model, prompts, home):
    own = config(prompts, "flat", advantage="group", beta=0.0)
    run, _ = finished(settings(tiny_model, prompts), own)
    weights = mx.load(str(run.path / WEIGHTS))
    assert all(not value.any().item() for name, value in weights.items() if "lora_b" in name)


def test_the_reference_is_where_training_starts_or_another_adapter(tiny_model, prompts, home):
    first, _ = finished(settings(tiny_model, prompts, iters=16, name="first"), config(prompts))
    _, events = finished(settings(tiny_model, prompts, adapter="first"), config(prompts))
    assert phases(events)[0]["kl"] == pytest.approx(0, abs=1e-4)
    other = settings(tiny_model, prompts, reference_adapter="first")
    _, events = finished(other, config(prompts))
    assert abs(phases(events)[0]["kl"]) > 1e-2
    # what went on from a run has its value head and units
    head, units = load_value_head(first.path, 64)
    assert mx.abs(head.weight).max().item() > 0
    assert units[1] > 0


def test_a_budget_of_tokens_counts_the_answers(tiny_model, prompts, home):
    chosen = settings(tiny_model, prompts, iters=None, max_tokens=12_000)
    run, events = finished(chosen, config(prompts))
    summary = events[-1].values
    assert 12_000 <= summary["tokens"] < 16_000
    assert summary["reason"] == "{:,} of 12,000 tokens used".format(summary["tokens"])
    assert run.state().total == summary["steps"]


def test_stopping_and_resuming_gives_the_same_bits(tiny_model, prompts, home):
    own = config(prompts, kl_control="adaptive")
    options = {"iters": 11, "grad_accumulation_steps": 2, "save_every": 50, "batch_size": 1}
    whole, _ = finished(settings(tiny_model, prompts, name="whole", **options), own)
    for at in (2, 4, 9):  # in a phase, at the end of one
        stop = threading.Event()
        chosen = settings(tiny_model, prompts, name=f"part{at}", **options)
        part, events = start(METHOD, chosen, own, stop)
        for event in events:
            if event.kind == "step" and event.step == at:
                stop.set()
        assert part.state().status == "stopped"
        assert part.checkpoints()[-1] == at
        assert [event.kind for event in resume(part)][-1] == "end"
        for name in (WEIGHTS, "value_head.safetensors"):
            assert (part.path / name).read_bytes() == (whole.path / name).read_bytes()
        assert [row["loss"] for row in part.metrics("train")] == [
            row["loss"] for row in whole.metrics("train")
        ]
        ours, theirs = (
            json.loads((one.path / "summary.json").read_text()) for one in (part, whole)
        )
        assert ours["tokens"] == theirs["tokens"]
    with pytest.raises(UserError, match="finished"):
        resume(part)


def test_stopping_while_answers_are_written_keeps_what_was_trained(tiny_model, prompts, home):
    stop = threading.Event()
    run, events = start(METHOD, settings(tiny_model, prompts, iters=8), config(prompts), stop)
    for event in events:
        if event.kind == "sampling" and event.text.startswith("phase 2"):
            stop.set()
    assert run.state().status == "stopped"
    assert run.checkpoints()[-1] == 4
    assert [event.kind for event in resume(run)][-1] == "end"
    assert len(run.metrics("train")) == 8


def test_killed_in_a_phase_a_resumed_run_ends_with_the_same_hash(tiny_model, prompts, home):
    """Killed at step 5: the answers of the second phase are on disk, the last checkpoint is of
    step 3, in the first. That a resumed run can be killed too is shown with DPO."""
    chosen = settings(tiny_model, prompts, iters=12, save_every=3)
    own = config(prompts)
    whole, _ = finished(replace(chosen, name="whole"), own)
    flags = [
        "ppo", "--name", "part", "--model", str(tiny_model), "--data",
        str(prompts / "prompts.jsonl"), "--scorer", own.scorer, "--n", "4", "--rollout-prompts",
        "4", "--response-length", "8", "--eos-penalty", "0", "--eval-split", "0",
        "--learning-rate", "0.01", "--iters", "12", "--batch-size", "2", "--max-seq-length", "128",
        "--save-every", "3",
    ]  # fmt: skip
    assert killed(home, 5, 0.0, *flags)
    part = Run(home / "runs" / "part")
    assert part.state().status == "interrupted"
    list(resume(part))
    ours, theirs = ((one.path / WEIGHTS).read_bytes() for one in (part, whole))
    assert hashlib.sha256(ours).hexdigest() == hashlib.sha256(theirs).hexdigest()
    samples = [json.loads(line)["phase"] for line in
               (part.path / "samples.jsonl").read_text().split("\n") if line]  # fmt: skip
    assert samples == [0] * 4 + [1] * 4 + [2] * 4


# -- what the user got wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", "ValueError: broken"),
        ("nan", "the score nan"),
        ("few", "1 scores for 4 responses"),
    ],
)
def test_a_scorer_that_fails(tiny_model, prompts, home, function, words):
    chosen = settings(tiny_model, prompts, name="bad")
    run, events = start(METHOD, chosen, config(prompts, function))
    with pytest.raises(UserError, match=words):
        list(events)
    assert not run.path.exists()  # nothing began: the name is free again


def test_a_damaged_checkpoint(tiny_model, prompts, home):
    stop = threading.Event()
    run, events = start(METHOD, settings(tiny_model, prompts), config(prompts), stop)
    for event in events:
        if event.kind == "step":
            stop.set()
    path = run.checkpoint_path(run.checkpoints()[-1]) / "phase.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match=r"phase.json is damaged"):
        list(resume(run))


def test_only_the_adapter_and_the_head_are_trained(tiny_model, prompts, home):
    run, _ = finished(settings(tiny_model, prompts, iters=2), config(prompts))
    names = set(mx.load(str(run.path / WEIGHTS)))
    model = load(str(tiny_model))
    attach(model.module, Settings().lora())
    assert names == {name for name, _ in tree_flatten(model.module.trainable_parameters())}
    for value in mx.load(str(run.path / WEIGHTS)).values():
        assert value.any().item()
