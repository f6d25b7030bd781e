"""Methods besides SFT, DPO and the reward head: losses against NumPy, hand cases, learning,
flags that do something, rows that are refused, and a method of the user's own."""

import dataclasses
import json
import math
import random

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from support import numpy_losses as reference
from support.places import ROOT, written
from support.processes import command, ended

from minialign.chat.turns import Conversation, reply
from minialign.data.prompts import as_prompts, prompt_ids
from minialign.engine import Engine, Sampling
from minialign.engine.open import open_engine
from minialign.errors import UserError
from minialign.learn import losses
from minialign.learn.batch import collate, encode_prompt
from minialign.learn.forward import response_logps
from minialign.learn.policy import make_policy
from minialign.methods import METHODS
from minialign.methods.own import load_method
from minialign.models import control
from minialign.models.adapter import attach
from minialign.models.control import Control
from minialign.models.load import load
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.records import Pair, Ranking, Rated
from minialign.run_folder import Run
from minialign.training.examples import load_rows
from minialign.training.settings import Settings
from minialign.training.start import resume, start

WORDS = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps", "yes"]
NEW = ("slic", "rrhf", "conditional", "kto", "orpo", "simpo")
OWN = ROOT / "examples" / "own_method.py"


def user(text):
    return [{"role": "user", "content": text}]


def close(values, expected):
    np.testing.assert_allclose(np.array(values, np.float64), expected, rtol=1e-5, atol=1e-5)


# ---- losses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("name", "arguments"), [("slic_rank", (1.5,)), ("simpo", (2.0, 1.0))])
def test_pair_losses_equal_the_numpy_copy(name, arguments, scale):
    chosen, rejected = -np.abs(np.random.default_rng(0).normal(size=(2, 64))) * scale
    expected, slope = getattr(reference, name)(chosen, rejected, *arguments)
    loss = getattr(losses, name)
    both = mx.array(chosen, mx.float32), mx.array(rejected, mx.float32)
    close(loss(*both, *arguments), expected)
    by = mx.grad(lambda a, b: loss(a, b, *arguments).sum(), argnums=(0, 1))(*both)
    close(by[0], slope)
    close(by[1], -slope)


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_orpo_equals_the_numpy_copy(scale):
    chosen, rejected = -np.abs(np.random.default_rng(0).normal(size=(2, 64))) * scale - 0.01
    chosen, rejected = chosen.astype(np.float32), rejected.astype(np.float32)
    expected = reference.orpo_odds_ratio(chosen.astype(np.float64), rejected.astype(np.float64))
    both = mx.array(chosen), mx.array(rejected)
    close(losses.orpo_odds_ratio(*both), expected[0])
    by = mx.grad(lambda a, b: losses.orpo_odds_ratio(a, b).sum(), argnums=(0, 1))(*both)
    for found, slope in zip(by, expected[1:], strict=True):
        close(found, slope)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 0.5)])
def test_kto_equals_the_numpy_copy(weights):
    random = np.random.default_rng(0)
    ratios, good = random.normal(size=64) * 20, random.integers(0, 2, 64)
    expected, slope = reference.kto(ratios, good, 0.7, 0.3, *weights)
    h, labels = mx.array(ratios, mx.float32), mx.array(good, mx.float32)
    close(losses.kto(h, labels, 0.7, 0.3, *weights), expected)
    close(mx.grad(lambda h: losses.kto(h, labels, 0.7, 0.3, *weights).sum())(h), slope)


def test_rrhf_equals_the_numpy_copy():
    random = np.random.default_rng(0)
    for counts in ([2, 2, 2], [4, 2, 7, 3], [5]):
        owners = np.repeat(np.arange(len(counts)), counts)
        p, scores = -random.random(len(owners)) * 5, random.integers(0, 4, len(owners))
        expected, slope = reference.rrhf_rank(p, scores, owners)
        worse = losses.worse(mx.array(scores.astype(np.float32)), mx.array(owners))
        means = mx.array(p, mx.float32)
        close(losses.rrhf_rank(means, worse), expected)
        close(mx.grad(lambda p, worse=worse: losses.rrhf_rank(p, worse).sum())(means), slope)


def test_by_hand():
    zero, one = mx.array([0.0]), mx.array([1.0])
    # SLiC: nothing is left beyond the margin, and all of it at equal log-probs
    assert losses.slic_rank(3 * one, one, 2.0).item() == 0
    assert losses.slic_rank(3 * one, one, 2.5).item() == 0.5
    assert losses.slic_rank(zero, zero, 1.5).item() == 1.5
    # RRHF: zero when the order agrees; else each gap of a wrong pair, ties and other prompts not
    scores, owners = mx.array([3.0, 2.0, 1.0, 5.0]), mx.array([0, 0, 0, 1])
    worse = losses.worse(scores, owners)
    assert losses.rrhf_rank(mx.array([-1.0, -2.0, -3.0, -9.0]), worse).sum().item() == 0
    assert losses.rrhf_rank(mx.array([-3.0, -2.0, -1.0, -9.0]), worse).tolist() == [0, 1, 3, 0]
    tied = losses.worse(mx.array([1.0, 1.0]), mx.array([0, 0]))
    assert losses.rrhf_rank(mx.array([-1.0, -5.0]), tied).sum().item() == 0
    # KTO at the reference point is half its weight
    assert losses.kto(zero, one, 0.0, 0.1, 1.5, 1.0).item() == pytest.approx(0.75)
    assert losses.kto(zero, zero, 0.0, 0.1, 1.5, 0.5).item() == pytest.approx(0.25)
    assert losses.kto(50 * one, one, 0.0, 1.0).item() == pytest.approx(0)
    assert losses.kto(50 * one, zero, 0.0, 1.0).item() == pytest.approx(1)
    # ORPO, SimPO at equal log-probs
    assert losses.orpo_odds_ratio(-one, -one).item() == pytest.approx(math.log(2))
    assert losses.log_odds(mx.array([math.log(0.75)])).item() == pytest.approx(math.log(3), 1e-5)
    assert losses.simpo(-one, -one, 2.0, 0.0).item() == pytest.approx(math.log(2))
    assert losses.simpo(-one, -2 * one, 2.0, 2.0).item() == pytest.approx(math.log(2))


def test_extreme_log_probs_stay_finite():
    far = mx.array([-1e4, -1e-9, 0.0])
    for loss in (
        lambda a, b: losses.orpo_odds_ratio(a, b),
        lambda a, b: losses.simpo(a, b, 10.0, 5.0),
        lambda a, b: losses.kto(a - b, mx.array([1.0, 0.0, 1.0]), 0.0, 1.0),
    ):
        assert mx.isfinite(loss(far, far[::-1])).all().item()
        for grad in mx.grad(lambda a, b, loss=loss: loss(a, b).sum(), argnums=(0, 1))(
            far, far[::-1]
        ):
            assert mx.isfinite(grad).all().item()


# ---- methods on a tiny model ------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Files of pairs, rankings of three, ratings, and demonstrations on 32 prompts: a good answer
    says yes, a bad one no."""
    folder = tmp_path_factory.mktemp("rows")
    chance = random.Random(0)
    kinds = {name: [] for name in ("pairs", "rankings", "ratings", "demonstrations")}
    for i in range(32):
        prompt = " ".join(chance.choices(WORDS, k=chance.randint(3, 12))) + f" {i}"
        tail = [" ".join(chance.choices(WORDS, k=chance.randint(1, 5))) for _ in range(3)]
        yes, perhaps, no = f"yes {tail[0]}", f"fox {tail[1]}", f"no {tail[2]} dog"
        kinds["pairs"].append({"prompt": prompt, "chosen": yes, "rejected": no, "margin": i % 3})
        kinds["rankings"].append(
            {"prompt": prompt, "responses": [perhaps, yes, no], "scores": [0.5, 1, 0]}
        )
        kinds["ratings"] += [
            {"prompt": prompt, "completion": yes, "label": True},
            {"prompt": prompt, "completion": no, "label": False},
        ]
        kinds["demonstrations"].append({"prompt": prompt, "completion": "over lazy brown"})
    for name, found in kinds.items():
        written(folder / f"{name}.jsonl", found)
    return folder


FILES = {Pair: "pairs", Ranking: "rankings", Rated: "ratings"}


def settings(tiny_model, file, **changes):
    return Settings(
        **{
            "model": str(tiny_model),
            "data": (str(file),),
            "learning_rate": 1e-2,
            "max_seq_length": 200,
            "eval_split": 0.25,
            "seed": 1,
            **changes,
        }
    )


def finished(method, chosen, **config):
    run, events = start(method, chosen, method.config(**config))
    return run, list(events)


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


# ---- control text -----------------------------------------------------------------------------


def test_control_text_goes_where_it_belongs():
    turns = [*user("one"), {"role": "assistant", "content": "two"}, *user("three")]
    assert Control("Be good.").apply(turns) == [*turns[:2], *user("Be good.\nthree")]
    system = {"role": "system", "content": "Be good."}
    assert Control("Be good.", "system").apply(turns) == [system, *turns]
    before = {"role": "system", "content": "Speak English."}
    both = {"role": "system", "content": "Be good.\nSpeak English."}
    assert Control("Be good.", "system").apply([before, *turns]) == [both, *turns]
    assert turns[2]["content"] == "three"


def test_the_good_words_are_stored_and_used_by_themselves(rows, tiny_model, home):
    method = METHODS["conditional"]
    chosen = settings(tiny_model, rows / "ratings.jsonl", iters=60, name="mine")
    run, _ = finished(method, chosen, good="fox", bad="dog")
    assert control.read(run.path) == Control("fox", "user")
    assert control.FILE in {path.name for path in run.path.iterdir()}
    engine = open_engine(str(tiny_model), "mine")
    bare = Tokenizer.load(tiny_model)
    (asked,) = as_prompts(["quick brown"])
    assert prompt_ids(asked, engine.tokenizer) == encode_prompt(user("fox\nquick brown"), bare)
    (raw,) = as_prompts(["quick brown"], raw=True)
    assert prompt_ids(raw, engine.tokenizer) == prompt_ids(raw, bare)
    conversation = Conversation()
    conversation.ask("quick brown")
    seen = []
    stream = engine.stream
    engine.stream = lambda ids, *rest: seen.append(ids) or stream(ids, *rest)
    list(reply(engine, conversation, Sampling(max_tokens=3)))
    assert seen == [encode_prompt(user("fox\nquick brown"), bare)]
    assert conversation.messages[0]["content"] == "quick brown"
    # what was learned: after the good words a good answer is likelier than after the bad ones
    plain = Engine(load(str(tiny_model), "mine"))
    good, bad = (
        plain.logps(
            encode_prompt(user(f"{words}\nquick brown 7"), bare),
            [bare.encode("yes"), bare.encode("no")],
        )
        for words in ("fox", "dog")
    )
    assert good[0] - good[1] > bad[0] - bad[1] + 1
    assert control.read(run.path / "checkpoints") is None
    (run.path / "control.json").write_text("{}")
    with pytest.raises(UserError, match=r"control\.json"):
        open_engine(str(tiny_model), "mine")


# ---- a method of the user's own ---------------------------------------------------------------


def test_the_example_of_an_own_method_trains(rows, tiny_model, home):
    assert len(OWN.read_text().splitlines()) <= 90
    method = load_method(OWN)
    run, events = finished(method, settings(tiny_model, rows / "pairs.jsonl", iters=12))
    first = next(event.values for event in events if event.kind == "step")
    assert 25 <= first["loss"] <= 100  # h = 0: the target squared, 5 to 10
    held = [event.values for event in events if event.kind == "eval"][-1]
    assert held["rewards/accuracies"] >= 0.9
    assert run.config["method"] == "margin-ipo"
    close(
        method.loss.__globals__["gap_loss"](mx.array([0.0, 7.5]), mx.array([0.0, 1.0]), 0.1, 0.5),
        [25.0, 0.0],
    )


def test_a_run_of_an_own_method_resumes(rows, tiny_model, home):
    import threading

    method, stop = load_method(OWN), threading.Event()
    chosen = settings(tiny_model, rows / "pairs.jsonl", iters=4)
    run, events = start(method, chosen, method.config(strength=0.1), stop)
    for event in events:
        if event.kind == "step" and event.step == 2:
            stop.set()
    assert run.state().status == "stopped"
    assert list(resume(Run(run.path)))[-1].values["status"] == "finished"


def test_train_runs_a_file_from_the_command_line(rows, tiny_model, home):
    flags = ["--model", str(tiny_model), "--data", str(rows / "pairs.jsonl"), "--iters", "1"]
    flags += ["--max-seq-length", "200", "--strength", "0.2", "--name", "own"]
    code, _, err = ended(command(home, "train", OWN, *flags))
    assert code == 0, err
    assert Run.open("own").config["strength"] == 0.2
    _, text, _ = ended(command(home, "train", OWN, "--help"))
    assert "margin moves" not in text
    assert "--strength" in text
    assert "margin (0 where it has none)" in " ".join(text.split())
    assert ended(command(home, "train", OWN, "--strenght", "1"))[0] == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "defines no METHOD"),
        ("METHOD = 3", "METHOD is of type"),
        ("METHOD = (", "never closed"),
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("from minialign.methods.dpo import METHOD", "like a built-in one"),
    ],
)
def test_files_without_a_method_are_refused(source, said, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(UserError, match=said):
        load_method(file)
    with pytest.raises(UserError, match="no such Python file"):
        load_method(tmp_path / "absent.py")
