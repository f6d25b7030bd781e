"""The trainer: accumulation, schedule, learning, resuming after a kill to the same bits."""

import math
import random

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support.places import written
from support.processes import killed

from minialign.cli import main
from minialign.data.hold_out import hold_out
from minialign.errors import UserError
from minialign.learn.batch import collate
from minialign.learn.fit import (
    Diverged,
    Updates,
    adamw,
    evaluate,
    fit,
    joined,
    load_state,
    save_state,
    schedule,
)
from minialign.learn.policy import add_reward_head, make_policy
from minialign.methods import METHODS
from minialign.models.adapter import WEIGHTS, Lora, attach
from minialign.models.load import load
from minialign.run_folder import Run
from minialign.training.examples import load_rows
from minialign.training.settings import Settings
from minialign.training.start import resume, start

WORDS = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps", "yes"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """48 pairs: the chosen answer says yes, the rejected one says no."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    chance = random.Random(0)
    rows = []
    for i in range(48):
        prompt = " ".join(chance.choices(WORDS, k=chance.randint(3, 40))) + f" {i}"
        tail = " ".join(chance.choices(WORDS, k=chance.randint(1, 6)))
        rows.append({"prompt": prompt, "chosen": f"yes {tail}", "rejected": f"no {tail} dog"})
    return written(path, rows)


def settings(tiny_model, pairs, **changes):
    return Settings(
        **{
            "model": str(tiny_model),
            "data": (str(pairs),),
            "learning_rate": 1e-2,
            "max_seq_length": 200,
            "save_every": 4,
            **changes,
        }
    )


def finished(method, chosen, **config):
    run, events = start(METHODS[method], chosen, METHODS[method].config(**config))
    return run, list(events)


def prepared(tiny_model, pairs, method="dpo", **changes):
    chosen = settings(tiny_model, pairs, eval_split=0.0, **changes)
    model = load(chosen.model)
    config = METHODS[method].config()
    rows = load_rows(chosen, METHODS[method], config, model.tokenizer)
    mx.random.seed(0)
    attach(model.module, chosen.lora())
    policy = make_policy(model, METHODS[method].reward_head)
    if METHODS[method].reward_head:
        add_reward_head(policy, None)
    for row in rows.train:
        row.meta["reference"] = [-20.0, -21.0]
    return policy, rows.train, config


def batch_of(rows):
    batch = collate(rows)
    batch.extra["reference"] = mx.array([v for row in rows for v in row.meta["reference"]])
    return batch


def trained(policy, batches, method="dpo", steps=2):
    optimizer = adamw((0.9, 0.999), 0.01)
    chosen = METHODS[method]
    loss = chosen.loss(chosen.config())
    updates = Updates(lambda _: 1e-2, chosen.weight, last=steps)
    done = list(fit(policy, loss, iter(batches), optimizer, updates))
    return done, dict(tree_flatten(policy.trainable.trainable_parameters()))


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_accumulation_equals_one_large_batch(tiny_model, pairs, method, home):
    results = []
    for size in (8, 2):
        policy, rows, _ = prepared(tiny_model, pairs, method)
        steps = [rows[:8], rows[8:16]]
        batches = [[batch_of(eight[i : i + size]) for i in range(0, 8, size)] for eight in steps]
        results.append(trained(policy, batches, method))
    (one, weights), (other, others) = results
    for a, b in zip(one, other, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)
        assert a.metrics == pytest.approx(b.metrics, rel=1e-3, abs=1e-4)
    moved = 0.0
    for name, value in weights.items():
        assert mx.abs(value - others[name]).max().item() < 2e-3, name
        moved = max(moved, mx.abs(value).max().item())
    assert moved > 1e-2


def test_only_the_adapter_is_trained(tiny_model, pairs, home):
    policy, rows, _ = prepared(tiny_model, pairs)
    before = {name: mx.array(value) for name, value in tree_flatten(policy.module.parameters())}
    _, weights = trained(policy, [[batch_of(rows[:4])]] * 3, steps=3)
    changed = {
        name
        for name, value in tree_flatten(policy.module.parameters())
        if not mx.array_equal(value, before[name])
    }
    assert changed == set(weights)
    assert len(changed) == 2 * 7 * 2  # a and b of seven layers in two blocks: all get a gradient


def test_a_loss_that_is_not_finite_stops_before_the_update(tiny_model, pairs, home):
    policy, rows, _ = prepared(tiny_model, pairs)
    batch = batch_of(rows[:4])

    def bad(policy, batch):
        value, metrics = METHODS["dpo"].loss(METHODS["dpo"].config())(policy, batch)
        return value * float("nan"), metrics

    before = [mx.array(v) for _, v in tree_flatten(policy.trainable.trainable_parameters())]
    updates = Updates(lambda _: 1.0, lambda batch: batch.size)
    steps = fit(policy, bad, iter([[batch]]), adamw((0.9, 0.999), 0), updates)
    with pytest.raises(Diverged):
        next(steps)
    after = [v for _, v in tree_flatten(policy.trainable.trainable_parameters())]
    assert all(mx.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_schedules_by_hand():
    cosine = schedule("cosine", 1.0, 2, 10)
    assert [cosine(1), cosine(2), cosine(3)] == [0.5, 1.0, 1.0]
    assert cosine(7) == pytest.approx(0.5)
    linear = schedule("linear", 1.0, 0, 4)
    assert [linear(i) for i in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
    assert schedule("constant", 0.3, 0, 5)(4) == 0.3


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_every_method_learns_its_own_metric(tiny_model, pairs, home, method):
    run, events = finished(method, settings(tiny_model, pairs, iters=40, eval_split=0.25))
    losses = [event.values["loss"] for event in events if event.kind == "step"]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    held = [event.values for event in events if event.kind == "eval"][-1]
    if method != "sft":
        assert held["rewards/accuracies"] >= 0.9
        assert held["accuracy_low"] < held["rewards/accuracies"] <= held["accuracy_high"] + 1e-9
        assert held["shorter_wins"] > 0.5
    assert run.state().status == "finished"
    if method == "reward":
        assert (run.path / "reward_head.safetensors").exists()
        assert -1 <= held["rewards/length_correlation"] <= 1


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "robust"])
def test_every_dpo_loss_learns(tiny_model, pairs, home, loss):
    extra = {"label_smoothing": 0.1} if loss == "robust" else {}
    chosen = settings(tiny_model, pairs, iters=20, eval_split=0.2, learning_rate=3e-3)
    _, events = finished("dpo", chosen, loss=loss, **extra)
    first = next(event.values for event in events if event.kind == "step")
    by_hand = {"sigmoid": math.log(2), "ipo": 25.0, "hinge": 1.0, "robust": math.log(2)}
    assert first["loss"] == pytest.approx(by_hand[loss], rel=1e-3)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-3)
    held = [event.values for event in events if event.kind == "eval"][-1]
    assert held["rewards/accuracies"] >= 0.8


def test_the_reference_is_cached_and_reused(tiny_model, pairs, home):
    chosen = settings(tiny_model, pairs, iters=12, eval_split=0.2)
    _, first = finished("dpo", chosen)
    _, second = finished("dpo", chosen, beta=0.2)

    def cached(events):
        return next(event.values["cached"] for event in events if event.kind == "reference")

    assert cached(first) == 0
    assert cached(second) == 48
    (file,) = (home / "cache" / "reference").glob("*.jsonl")
    file.write_text(file.read_text()[:-30])  # a kill cut the last line
    _, third = finished("dpo", chosen)
    assert cached(third) == 47


def test_a_run_starts_from_another_which_is_then_the_reference(tiny_model, pairs, home):
    finished("sft", settings(tiny_model, pairs, iters=10, name="base"))
    _, events = finished("dpo", settings(tiny_model, pairs, iters=1, adapter="base"))
    first = next(event.values for event in events if event.kind == "step")
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-3)
    # with the base as policy and the run as reference they differ from the start
    other = settings(tiny_model, pairs, iters=1, reference_adapter="base")
    _, events = finished("dpo", other)
    first = next(event.values for event in events if event.kind == "step")
    assert abs(first["rewards/chosen"]) > 0.05


def test_early_stopping_keeps_the_best(tiny_model, pairs, home):
    chosen = settings(
        tiny_model, pairs, iters=60, eval_split=0.3, steps_per_eval=2, patience=2,
        learning_rate=0.3, lr_schedule="constant", warmup=0,
    )  # fmt: skip
    run, events = finished("sft", chosen)
    steps = [event.step for event in events if event.kind == "step"]
    assert steps[-1] < 60
    assert run.state().status == "finished"
    best = (run.path / "best" / WEIGHTS).read_bytes()
    assert (run.path / WEIGHTS).read_bytes() == best


def test_stopping_saves_and_resuming_gives_the_same_bits(tiny_model, pairs, home):
    import threading

    options = {"iters": 11, "dropout": 0.1, "grad_accumulation_steps": 2, "save_every": 50}
    whole, _ = finished("dpo", settings(tiny_model, pairs, name="whole", **options))
    stop = threading.Event()
    part, events = start(
        METHODS["dpo"], settings(tiny_model, pairs, name="part", **options),
        METHODS["dpo"].config(), stop,
    )  # fmt: skip
    for event in events:
        if event.kind == "step" and event.step == 5:
            stop.set()
    assert part.state().status == "stopped"
    assert part.checkpoints() == [5]
    assert [event.kind for event in resume(part)][-1] == "end"
    assert (part.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()
    assert [row["loss"] for row in part.metrics("train")] == [
        row["loss"] for row in whole.metrics("train")
    ]
    with pytest.raises(UserError, match="finished"):
        resume(part)


def test_an_optimizer_of_another_layout_is_refused(tiny_model, tmp_path):
    policy = make_policy(load(str(tiny_model)))
    attach(policy.module, Lora(rank=2))
    optimizer = adamw((0.9, 0.999), 0.0)
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    save_state(tmp_path, policy, optimizer)
    load_state(tmp_path, policy, optimizer)
    other = adamw((0.9, 0.999), 0.0)
    other.init(policy.trainable.trainable_parameters())
    save_state(tmp_path, policy, other)
    with pytest.raises(UserError, match="older"):
        load_state(tmp_path, policy, optimizer)


def test_killed_twice_a_resumed_run_ends_with_the_same_hash(tiny_model, pairs, home):
    """First while a checkpoint is written (of step 3), then, resumed, at a step that has none."""
    flags = [
        "--model", str(tiny_model), "--data", str(pairs), "--iters", "12", "--save-every", "3",
        "--dropout", "0.1", "--max-seq-length", "200", "--learning-rate", "0.01",
    ]  # fmt: skip
    assert main(["dpo", *flags, "--name", "whole"]) == 0
    expected = (home / "runs" / "whole" / WEIGHTS).read_bytes()
    folder, words = home / "runs" / "killed", ["dpo", *flags, "--name", "killed"]
    for rows in (3, 5):
        assert killed(home, rows, 0.0, *words)
        assert Run(folder).state().status == "interrupted"
        words = ["runs", "resume", "killed"]
    assert main(words) == 0
    assert (folder / WEIGHTS).read_bytes() == expected
    assert len(Run(folder).metrics("train")) == 12


def test_changed_data_are_refused_on_resume(tiny_model, pairs, home, tmp_path):
    import threading

    mine = tmp_path / "mine.jsonl"
    mine.write_text(pairs.read_text())
    stop = threading.Event()
    run, events = start(
        METHODS["dpo"], settings(tiny_model, mine, iters=9), METHODS["dpo"].config(), stop
    )
    for event in events:
        if event.kind == "step":
            stop.set()
    mine.write_text(pairs.read_text().replace("yes", "perhaps"))
    with pytest.raises(UserError, match="changed"):
        list(resume(run))


def test_hold_out_keeps_prompts_together(tiny_model, pairs, home):
    from minialign.records import Pair

    records = [
        Pair([{"role": "user", "content": f"q{i % 10}"}], f"a{i}", f"b{i}") for i in range(40)
    ]
    train, held = hold_out(records, 0.2, 0)
    assert len(held) == 8
    assert len(train) == 32
    assert not {r.prompt[0]["content"] for r in train} & {r.prompt[0]["content"] for r in held}
    assert hold_out(records, 0.2, 0) == (train, held)
    assert hold_out(records, 0.2, 1) != (train, held)


def test_too_little_memory_is_refused_with_a_setting_that_fits(tiny_model, pairs, home):
    with pytest.raises(UserError) as error:
        finished("dpo", settings(tiny_model, pairs, iters=1, memory_limit=0.001))
    assert "needs about" in error.value.problem
    assert "smaller" in error.value.hint


def test_evaluation_leaves_training_as_it_was(tiny_model, pairs, home):
    results = []
    for looks in (False, True):
        policy, rows, config = prepared(tiny_model, pairs, dropout=0.2)
        chosen = METHODS["dpo"]
        loss, optimizer = chosen.loss(config), adamw((0.9, 0.999), 0.0)
        batches = iter([[batch_of(rows[:4])] for _ in range(3)])
        updates = Updates(lambda _: 1e-2, chosen.weight, last=3)
        for _ in fit(policy, loss, batches, optimizer, updates):
            if looks:
                list(evaluate(policy, loss, [batch_of(rows[8:12])], chosen.weight))
        results.append(dict(tree_flatten(policy.trainable.trainable_parameters())))
    for name, value in results[0].items():
        assert mx.array_equal(value, results[1][name]), name
