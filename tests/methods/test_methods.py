"""Methods besides SFT, DPO and the reward head on a tiny model: their formulas, every flag,
learning, rows and settings that are refused."""

import dataclasses
import json
import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from support import numpy_losses as reference
from support.method_rows import finished, settings
from support.places import written

from minialign.errors import UserError
from minialign.learn.batch import collate
from minialign.learn.forward import response_logps
from minialign.learn.policy import make_policy
from minialign.methods import METHODS
from minialign.models.adapter import attach
from minialign.models.load import load
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.records import Pair, Ranking, Rated
from minialign.training.examples import load_rows
from minialign.training.settings import Settings

NEW = ("slic", "rrhf", "conditional", "kto", "orpo", "simpo")


FILES = {Pair: "pairs", Ranking: "rankings", Rated: "ratings"}


@pytest.fixture(scope="module")
def policy(tiny_model):
    """A tiny model with an adapter that is not zero."""
    model = load(str(tiny_model))
    mx.random.seed(3)
    attach(model.module, Settings().lora())
    weights = model.module.trainable_parameters()
    model.module.update(tree_map(lambda w: mx.random.normal(w.shape) * 0.1, weights))
    made = make_policy(model)
    made.trainable.eval()
    return made


def batch_of(method, rows, tiny_model, config, size=6):
    """A batch of a method's own rows, with made-up log-probs of the reference."""
    chosen = settings(tiny_model, rows / f"{FILES[method.record]}.jsonl", eval_split=0.0)
    examples = load_rows(chosen, method, config, Tokenizer.load(tiny_model)).train[:size]
    batch = collate(examples)
    count = batch.responses.shape[0]
    batch.extra["reference"] = -mx.arange(20, 20 + count).astype(mx.float32)
    return batch


def alone(policy, batch):
    """(log-prob, tokens) of each response, each prompt in a batch of its own; float64."""
    sums, counts = zip(
        *(response_logps(policy, collate([one])) for one in batch.examples), strict=True
    )
    return (
        np.concatenate([np.array(part, np.float64) for part in each]) for each in (sums, counts)
    )


def expected_loss(name, policy, batch, config):
    logps, counts = alone(policy, batch)
    means = logps / counts
    ratios = logps - np.array(batch.extra["reference"], np.float64)
    good = np.array([example.meta.get("good", False) for example in batch.examples])
    match name:
        case "slic":
            rank = reference.slic_rank(logps[0::2], logps[1::2], config.delta)[0]
            return (rank - config.nll_weight * logps[0::2]).sum()
        case "rrhf":  # the second of three is the best
            scores = np.array([s for example in batch.examples for s in example.meta["scores"]])
            owners = np.repeat(np.arange(batch.size), 3)
            p = logps / counts**config.length_penalty
            rank = reference.rrhf_rank(p, scores, owners)[0].sum()
            return config.rank_weight * rank - config.nll_weight * logps[1::3].sum()
        case "conditional":
            return -logps.sum()
        case "kto":
            kl = max(0.0, ratios[1::2].mean())
            weights = (config.desirable_weight, config.undesirable_weight)
            return reference.kto(ratios[0::2], good, kl, config.beta, *weights)[0].sum()
        case "orpo":
            ratio = reference.orpo_odds_ratio(means[0::2], means[1::2])[0]
            return (config.beta * ratio - means[0::2]).sum()
        case "simpo":
            gap = reference.simpo(means[0::2], means[1::2], config.beta, config.gamma)[0]
            return (gap - config.nll_weight * means[0::2]).sum()


@pytest.mark.parametrize("name", NEW)
def test_a_methods_loss_is_its_formula_on_log_probs(name, policy, rows, tiny_model, home):
    method = METHODS[name]
    config = method.config()
    batch = batch_of(method, rows, tiny_model, config)
    value, metrics = method.loss(config)(policy, batch)
    assert value.item() == pytest.approx(expected_loss(name, policy, batch, config), rel=1e-5)
    shown = method.derived(
        {key: float(part) / method.weight(batch) for key, part in metrics.items()}
    )
    assert all(math.isfinite(part) for part in shown.values())


FLAGS = [
    ("slic", {"delta": 40.0}), ("slic", {"nll_weight": 0.7}),
    ("rrhf", {"rank_weight": 3.0}), ("rrhf", {"nll_weight": 0.0}),
    ("rrhf", {"length_penalty": 0.5}),
    ("conditional", {"good": "fox"}), ("conditional", {"bad": "dog"}),
    ("conditional", {"place": "system"}),
    ("kto", {"beta": 0.7}), ("kto", {"desirable_weight": 2.0}),
    ("kto", {"undesirable_weight": 2.0}),
    ("orpo", {"beta": 0.7}),
    ("simpo", {"beta": 5.0}), ("simpo", {"gamma": 0.0}), ("simpo", {"nll_weight": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), FLAGS)
def test_every_flag_changes_the_loss_as_its_formula_says(
    name, change, policy, rows, tiny_model, home
):
    method, values = METHODS[name], []
    for config in (method.config(), method.config(**change)):
        batch = batch_of(method, rows, tiny_model, config)
        values.append(method.loss(config)(policy, batch)[0].item())
        expected = expected_loss(name, policy, batch, config)
        assert values[-1] == pytest.approx(expected, rel=1e-5)
    assert abs(values[0] - values[1]) > 1e-3


def test_every_flag_is_tested():
    named = {(name, flag) for name, change in FLAGS for flag in change} | {("slic", "sft_data")}
    named |= {("conditional", "quantiles"), ("conditional", "level")}  # test_conditional_levels
    assert named == {
        (name, field.name) for name in NEW for field in dataclasses.fields(METHODS[name].config)
    }


def test_slic_regularizes_with_the_text_of_another_file(
    policy, rows, tiny_model, home, tmp_path, monkeypatch
):
    method, file = METHODS["slic"], rows / "demonstrations.jsonl"
    config = method.config(sft_data=(str(file),))
    batch = batch_of(method, rows, tiny_model, config)
    logps, _ = alone(policy, batch)
    assert batch.responses.shape[0] == 3 * batch.size
    rank = reference.slic_rank(logps[0::3], logps[1::3], 1.0)[0]
    value, metrics = method.loss(config)(policy, batch)
    assert value.item() == pytest.approx((rank - 0.1 * logps[2::3]).sum(), rel=1e-5)
    assert metrics["nll/reference"].item() == pytest.approx(-logps[2::3].sum(), rel=1e-5)
    # a pair whose prompt is not there takes its chosen response
    part = tmp_path / "part.jsonl"
    part.write_text(file.read_text().splitlines()[0] + "\n")
    examples = batch_of(method, rows, tiny_model, method.config(sft_data=(str(part),))).examples
    same = [example.responses[2] == example.responses[0] for example in examples]
    assert same.count(False) == 1
    monkeypatch.chdir(rows)  # a run goes on from any folder: it keeps whole paths
    chosen = settings(tiny_model, rows / "pairs.jsonl", iters=2)
    run, _ = finished(method, chosen, sft_data=("demonstrations.jsonl",))
    assert run.state().status == "finished"
    assert run.config["sft_data"] == [str(file)]


def test_kto_pairs_each_prompt_with_the_answer_to_another(rows, tiny_model, home):
    method = METHODS["kto"]
    batch = batch_of(method, rows, tiny_model, method.config(), size=64)
    own = {(tuple(one.prompt), tuple(one.responses[0])) for one in batch.examples}
    answers = {answer for _, answer in own}
    assert len(own) == batch.size == 64
    for one in batch.examples:
        assert tuple(one.responses[1]) in answers
        assert (tuple(one.prompt), tuple(one.responses[1])) not in own


def test_ktos_kl_carries_no_gradient_and_is_never_negative(policy, rows, tiny_model, home):
    method = METHODS["kto"]
    batch = batch_of(method, rows, tiny_model, method.config())
    logps = response_logps(policy, batch)[0]

    def kl(shift):
        batch.extra["reference"] = logps - shift * (mx.arange(logps.size) % 2)
        return method.loss(method.config())(policy, batch)[1]["kl"].item() / batch.size

    assert kl(4.0) == pytest.approx(4.0, rel=1e-5)
    assert kl(-4.0) == 0


@pytest.mark.parametrize("name", NEW)
def test_every_method_learns_its_own_metric(name, rows, tiny_model, home):
    method = METHODS[name]
    file = rows / f"{FILES[method.record]}.jsonl"
    pace = {"iters": 16, "learning_rate": 2e-2}
    if name == "kto":  # its reference point wants larger batches
        pace = {"iters": 40, "learning_rate": 5e-3, "batch_size": 8}
    run, events = finished(method, settings(tiny_model, file, **pace))
    losses_seen = [event.values["loss"] for event in events if event.kind == "step"]
    assert np.mean(losses_seen[-5:]) < 0.85 * np.mean(losses_seen[:5])
    *before, held = [event.values for event in events if event.kind == "eval"]
    assert run.state().status == "finished"
    assert all(held["loss"] < first["loss"] for first in before)
    match name:
        case "conditional":
            assert {"nll/good", "nll/bad"} <= set(held)
        case "kto":
            assert held["ratings/accuracies"] >= 0.75
            assert held["rewards/chosen"] > 0 > held["rewards/rejected"]
        case _:
            assert held["rewards/accuracies"] >= 0.8
            assert held["rewards/margins"] > before[0]["rewards/margins"]
            assert held["rewards/margins"] > 0
            assert held["shorter_wins"] > 0.5


def test_pairs_serve_methods_for_rankings_and_ratings(rows, tiny_model, home):
    chosen = settings(tiny_model, rows / "pairs.jsonl", eval_split=0.0)
    for name, count in (("rrhf", 32), ("kto", 64), ("conditional", 64)):
        method = METHODS[name]
        found = load_rows(chosen, method, method.config(), Tokenizer.load(tiny_model))
        assert (len(found.train), found.notes) == (count, [])


def test_ratings_and_rankings_that_teach_nothing_are_refused(tiny_model, home, tmp_path):
    file = tmp_path / "rows.jsonl"

    def refused(name, lines):
        written(file, lines)
        with pytest.raises(UserError) as error:
            finished(METHODS[name], settings(tiny_model, file, iters=1))
        return str(error.value)

    good = [{"prompt": f"q {i}", "completion": "yes", "label": True} for i in range(6)]
    bad = [{**row, "label": False} for row in good]
    for name in ("kto", "conditional"):
        assert "ratings are good" in refused(name, good)
        assert "ratings are bad" in refused(name, bad)
    one = [{"prompt": "q", "responses": ["yes"], "scores": [1.0]}]
    assert "two or more answers" in refused("rrhf", one)
    ties = [{"prompt": f"q {i}", "responses": ["a", "b"], "scores": [1, 1]} for i in range(4)]
    assert "the same score" in refused("rrhf", ties)
    assert "nothing to train on" in refused("orpo", good)
    pairs = [{"prompt": f"q {i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    written(file, pairs)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "unheard of", "completion": "x"}) + "\n")
    with pytest.raises(UserError, match="--sft-data"):
        finished(METHODS["slic"], settings(tiny_model, file, iters=1), sft_data=(str(other),))
    with pytest.raises(UserError, match=r"missing\.jsonl"):
        finished(METHODS["slic"], settings(tiny_model, file, iters=1), sft_data=("missing.jsonl",))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("slic", {"delta": -1.0}, "delta"), ("slic", {"nll_weight": -1.0}, "nll_weight"),
        ("slic", {"sft_data": ("x",), "nll_weight": 0.0}, "--sft-data"),
        ("rrhf", {"length_penalty": -1.0}, "length_penalty"),
        ("rrhf", {"rank_weight": 0.0, "nll_weight": 0.0}, "both 0"),
        ("conditional", {"good": " "}, "--good"),
        ("conditional", {"good": "x", "bad": "x"}, "same"),
        ("kto", {"beta": 0.0}, "beta"), ("kto", {"desirable_weight": -1.0}, "desirable"),
        ("orpo", {"beta": 0.0}, "beta"), ("simpo", {"gamma": -1.0}, "gamma"),
    ],
)  # fmt: skip
def test_settings_outside_the_domain_are_refused(name, change, said):
    with pytest.raises(UserError, match=said):
        METHODS[name].check(METHODS[name].config(**change))
    METHODS[name].check(METHODS[name].config())
