"""Budgets of tokens and minutes: a run ends when they are used, and resuming changes nothing."""

import hashlib
import itertools
import random
import threading
from types import SimpleNamespace

import pytest
from support.places import written

from minialign.errors import UserError
from minialign.methods import METHODS
from minialign.models.adapter import WEIGHTS
from minialign.training.budget import spent, steps_ahead
from minialign.training.settings import Settings
from minialign.training.start import resume, start

WORDS = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps", "yes"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """24 pairs of quite different lengths."""
    chance = random.Random(0)

    def text(most):
        return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))

    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"{text(9)} {i}", "chosen": f"yes {text(5)}", "rejected": f"no {text(20)}"}
        for i in range(24)
    ]
    return written(path, rows)


def begun(tiny_model, pairs, stop=None, method="sft", **changes):
    chosen = Settings(
        model=str(tiny_model), data=(str(pairs),), learning_rate=1e-2, save_every=3, eval_split=0.0,
        batch_size=2, **changes,
    )  # fmt: skip
    return start(METHODS[method], chosen, METHODS[method].config(), stop)


def trained(*arguments, **changes):
    run, events = begun(*arguments, **changes)
    happened = list(events)
    return run, run.metrics("train"), happened[-1].values, happened


def weights(run):
    return hashlib.sha256((run.path / WEIGHTS).read_bytes()).hexdigest()


@pytest.mark.parametrize("extra", [{}, {"grad_accumulation_steps": 3}, {"steps_per_report": 4}])
def test_the_step_that_reaches_the_tokens_is_the_last(tiny_model, pairs, home, extra):
    run, steps, summary, happened = trained(tiny_model, pairs, max_tokens=1500, **extra)
    assert sum(step["tokens"] for step in steps) == summary["tokens"]
    each = [event.values["tokens"] for event in happened if event.kind == "step"]
    assert sum(each[:-1]) < 1500 <= sum(each)
    assert summary["reason"] == f"{sum(each):,} of 1,500 tokens used"
    assert f"{summary['reason']}: finished" in [
        event.text for event in happened if event.kind == "note"
    ]
    state = run.state()
    assert (state.status, state.message) == ("finished", summary["reason"])
    assert state.total == state.step == len(each)


def test_a_budget_of_tokens_is_the_run_of_as_many_steps(tiny_model, pairs, home):
    run, steps, summary, _ = trained(tiny_model, pairs, max_tokens=2000)
    other, others, _, _ = trained(tiny_model, pairs, iters=summary["steps"])
    assert [s["learning_rate"] for s in steps] == [s["learning_rate"] for s in others]
    assert weights(run) == weights(other)
    assert summary["steps"] > 12  # more than an epoch: the data are read again


def test_the_smaller_of_steps_and_tokens_ends_it(tiny_model, pairs, home):
    _, steps, summary, _ = trained(tiny_model, pairs, max_tokens=10**9, iters=2)
    assert (len(steps), summary["reason"]) == (2, "all steps done")
    _, steps, summary, _ = trained(tiny_model, pairs, max_tokens=1, iters=2)
    assert len(steps) == 1
    assert "of 1 tokens used" in summary["reason"]


def test_stopped_under_a_budget_it_goes_on_to_the_same_bits(tiny_model, pairs, home):
    whole, expected, _, _ = trained(tiny_model, pairs, method="dpo", max_tokens=3000)
    stop = threading.Event()
    run, events = begun(tiny_model, pairs, stop, "dpo", max_tokens=3000)
    for event in events:
        if event.kind == "step" and event.step == 5:
            stop.set()
    assert run.state().status == "stopped"
    list(resume(run))
    assert run.state().status == "finished"
    assert [s["tokens"] for s in run.metrics("train")] == [s["tokens"] for s in expected]
    assert weights(run) == weights(whole)


def test_minutes_end_a_run_and_its_learning_rate_falls_with_them(
    tiny_model, pairs, home, monkeypatch
):
    ticks = itertools.count()  # the clock is read twice a step
    clock = SimpleNamespace(perf_counter=lambda: 0.07 * next(ticks))
    monkeypatch.setattr("minialign.learn.fit.time", clock)
    run, steps, summary, _ = trained(tiny_model, pairs, max_minutes=0.02)
    seconds = [step["seconds"] for step in steps]
    assert sum(seconds[:-1]) < 1.2 <= sum(seconds)
    assert "of 0.02 minutes used" in summary["reason"]
    assert run.state().total == len(steps) == 18
    rates = [step["learning_rate"] for step in steps]
    assert max(rates) > 0.006
    assert rates[-1] < 0.5 * max(rates)


def test_minutes_used_before_a_stop_count(tiny_model, pairs, home):
    stop = threading.Event()
    run, events = begun(tiny_model, pairs, stop, max_minutes=5)
    for event in events:
        if event.kind == "step":
            stop.set()
    row = run.metrics("train")[0]
    run.log("train", 1, {**row, "seconds": 400.0})
    list(resume(run))
    assert len(run.metrics("train")) == 1
    assert run.state().message == "6.7 of 5 minutes used"


def test_steps_ahead_by_hand():
    minutes = Settings(max_minutes=2)
    assert steps_ahead(Settings(), 7, 100.0, 30) == 30
    assert steps_ahead(minutes, 1, 0.0, 10**9) == 100  # nothing is known yet
    assert steps_ahead(minutes, 11, 20.0, 10**9) == 60  # 2 s a step
    assert steps_ahead(minutes, 11, 20.0, 40) == 40
    assert steps_ahead(minutes, 90, 130.0, 10**9) == 90
    assert spent(minutes, 10**9, 119.0) == ""
    assert spent(Settings(), 10**9, 10**9) == ""


@pytest.mark.parametrize("change", [{"max_tokens": -1}, {"max_minutes": -0.5}])
def test_a_negative_budget_is_refused(tiny_model, pairs, home, change):
    (name,) = change
    with pytest.raises(UserError, match=f"{name} = -.*\nit must be at least 0"):
        begun(tiny_model, pairs, **change)
