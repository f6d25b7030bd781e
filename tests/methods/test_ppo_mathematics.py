"""The mathematics of PPO, RLOO and GRPO against NumPy and by hand."""

import itertools
import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from support import numpy_losses as reference

from minialign.errors import UserError
from minialign.learn import losses
from minialign.learn.batch import Example
from minialign.learn.policy import make_policy
from minialign.methods import ppo
from minialign.methods.ppo import Answers, Config
from minialign.models.adapter import attach
from minialign.models.head import RewardHead, load_value_head, save_value_head
from minialign.models.load import load
from minialign.training.rollouts import chosen_prompts
from minialign.training.settings import Settings

# -- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("ppo_clip", 0.2), ("value_clip", 0.3), ("kl_k1", None), ("kl_k3", None)],
)
def test_values_and_derivatives_equal_the_numpy_copy(name, arguments, scale):
    chance = np.random.default_rng(0)
    x, y, z = chance.normal(size=(3, 256)) * scale
    given = (np.exp(x / scale), y) if name == "ppo_clip" else (x, y)
    given += (z,) if name == "value_clip" else ()
    more = () if arguments is None else (arguments,)
    expected, slope = getattr(reference, name)(*given, *more)
    first, *rest = (mx.array(value, mx.float32) for value in given)
    loss = getattr(losses, name)
    np.testing.assert_allclose(np.array(loss(first, *rest, *more)), expected, rtol=1e-5, atol=1e-5)
    found = mx.grad(lambda first: loss(first, *rest, *more).sum())(first)
    np.testing.assert_allclose(np.array(found), slope, rtol=1e-5, atol=1e-5)


def test_the_clip_by_hand_on_both_sides_of_both_signs():
    cases = [  # ratio, advantage, loss, derivative by the ratio
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier: no more to gain
        (0.5, 2.0, -1.0, -2.0),  # good and less likely: all of it
        (1.5, -2.0, 3.0, 2.0),  # bad and likelier: all of it
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
    ]
    ratio, advantage, value, slope = (mx.array(column) for column in zip(*cases, strict=True))
    assert mx.allclose(losses.ppo_clip(ratio, advantage, 0.2), value)
    found = mx.grad(lambda ratio: losses.ppo_clip(ratio, advantage, 0.2).sum())(ratio)
    assert mx.allclose(found, slope)
    # the value may come 0.5 closer; beyond that moving it further gains nothing
    one = mx.array(1.0)
    assert losses.value_clip(one, 0 * one, 2 * one, 0.5).item() == pytest.approx(1.125)
    grad = mx.grad(lambda v: losses.value_clip(v, mx.array(0.0), mx.array(2.0), 0.5))
    assert grad(one).item() == 0
    assert grad(mx.array(0.3)).item() == pytest.approx(-1.7)


def test_kl_estimates_have_the_kl_as_their_mean():
    chance = np.random.default_rng(1)
    p, q = chance.dirichlet(np.ones(8)), chance.dirichlet(np.ones(8))
    log_p, log_q = mx.array(np.log(p), mx.float32), mx.array(np.log(q), mx.float32)
    exact = float((p * np.log(p / q)).sum())
    for estimate in (losses.kl_k1, losses.kl_k3):
        values = np.array(estimate(log_p, log_q), np.float64)
        assert (p * values).sum() == pytest.approx(exact, abs=1e-5)
    assert (np.array(losses.kl_k3(log_p, log_q)) >= 0).all()
    assert (np.array(losses.kl_k1(log_p, log_q)) < 0).any()


# -- advantages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
def test_gae_equals_its_definition(gamma, lambda_):
    chance = np.random.default_rng(2)
    for count in (1, 2, 37):
        rewards, values = chance.normal(size=(2, count))
        expected = reference.gae(rewards, values, gamma, lambda_)
        np.testing.assert_allclose(ppo.gae(rewards, values, gamma, lambda_), expected, atol=1e-12)


def test_gae_by_hand():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    assert ppo.gae(rewards, values, 1.0, 1.0) == pytest.approx([0.5, 0.4, 0.3])  # return - value
    assert ppo.gae(rewards, values, 1.0, 0.0) == pytest.approx([0.1, 0.1, 0.3])  # one step


@pytest.mark.parametrize("n", [2, 3, 8])
def test_rloo_and_group_equal_the_numpy_copy(n):
    rewards = np.random.default_rng(3).normal(size=(5, n)) * 4
    np.testing.assert_allclose(ppo.rloo(rewards), reference.rloo(rewards), atol=1e-12)
    np.testing.assert_allclose(ppo.group(rewards), reference.group(rewards), atol=1e-12)
    equal = np.full((2, n), 3.7)
    assert (ppo.rloo(equal) == 0).all() or np.abs(ppo.rloo(equal)).max() < 1e-12
    assert np.abs(ppo.group(equal)).max() < 1e-9


def test_whitening():
    values = np.random.default_rng(4).normal(size=1000) * 7 + 3
    white = ppo.whiten(values)
    assert white.mean() == pytest.approx(0, abs=1e-9)
    assert white.std() == pytest.approx(1, abs=1e-6)
    kept = ppo.whiten(values, shift_mean=False)
    assert kept.mean() == pytest.approx(values.mean())
    assert kept.std() == pytest.approx(1, abs=1e-6)
    assert (ppo.whiten(np.full(5, 2.0)) == 0).all()


def test_adaptive_beta_by_hand():
    adaptive = Config(kl_control="adaptive", kl_target=6.0, kl_rate=0.1)
    assert ppo.next_beta(0.2, 6.0, adaptive) == pytest.approx(0.2)
    assert ppo.next_beta(0.2, 6.6, adaptive) == pytest.approx(0.2 * 1.01)
    assert ppo.next_beta(0.2, 60.0, adaptive) == pytest.approx(0.2 * 1.02)  # e is clipped
    assert ppo.next_beta(0.2, 0.0, adaptive) == pytest.approx(0.2 * 0.98)
    assert ppo.next_beta(0.2, 60.0, Config()) == 0.2


def answers(scores, logps, behind, ended=None, values=None):
    """One prompt's answers of given per-token log-probs."""
    ids = [[7] * len(row) for row in logps]
    ended = ended or [True] * len(ids)
    return Answers(0, ids, [""] * len(ids), ended, scores, logps, behind, values or [])


def test_rewards_of_a_phase_by_hand():
    one = answers(
        [1.0, 3.0], [[-1.0, -2.0], [-1.0]], [[-1.5, -2.0], [-3.0]], [True, False],
        [[0.0, 0.0], [0.0]],
    )  # fmt: skip
    plain = Config(advantage="gae", gae_lambda=1.0, whiten_advantages=False, eos_penalty=0.5)
    taught = ppo.targets([one], plain, 0.1, (0.0, 1.0))
    # rewards: -0.1 * 0.5, then 1; and 3 - 0.5 - 0.1 * 2
    assert taught.advantages[0] == pytest.approx([0.95, 1.0])
    assert taught.advantages[1] == pytest.approx([2.3])
    assert taught.metrics["kl"] == pytest.approx(1.25)
    assert taught.metrics["reward/mean"] == 2
    assert taught.metrics["ended"] == 0.5
    assert taught.metrics["response_length"] == 1.5
    # a fresh head has the units of these rewards, and says their mean
    fresh = ppo.targets([one], plain, 0.1, None)
    mean, spread = (0.95 + 2.3) / 2, (2.3 - 0.95) / 2
    assert fresh.units == pytest.approx((mean, spread))
    assert fresh.advantages[1] == pytest.approx([2.3 - mean])
    assert fresh.returns[1] == pytest.approx([1.0])
    assert fresh.returns[0] == pytest.approx([-1.0, (1.0 - mean) / spread])
    loo = ppo.targets([one], replace(plain, advantage="rloo"), 0.1, None)
    assert np.concatenate(loo.advantages) == pytest.approx([0.95 - 2.3, 2.3 - 0.95])
    grouped = ppo.targets([one], replace(plain, advantage="group"), 0.1, None)
    value = 0.75 / (1.5 / math.sqrt(2) + 1e-4)  # 1 and 2.5: no KL, it is in the loss
    assert [list(row) for row in grouped.advantages] == [
        pytest.approx([-value, -value]), pytest.approx([value])
    ]  # fmt: skip
    k3 = ppo.token_kls([one], replace(plain, kl_estimator="k3"))
    assert k3[1] == pytest.approx([math.exp(-2) - 1 + 2])


@pytest.mark.parametrize("kind", ["gae", "rloo", "group"])
def test_equal_rewards_teach_nothing(kind):
    one = answers([2.0] * 3, [[-1.0] * 4] * 3, [[-1.0] * 4] * 3, None, [[0.0] * 4] * 3)
    taught = ppo.targets([one, one], Config(advantage=kind), 0.1, None)
    assert np.abs(np.concatenate(taught.advantages)).max() < 1e-6
    if kind == "gae":
        assert np.abs(np.concatenate(taught.returns)).max() < 1e-6
        assert taught.metrics["explained_variance"] == 0


def test_whitened_rewards_keep_their_mean():
    scores = [1.0, 5.0, 30.0]
    one = answers(scores, [[-1.0]] * 3, [[-1.0]] * 3, None, [[0.0]] * 3)
    config = Config(whiten_rewards=True, whiten_advantages=False)
    taught = ppo.targets([one], config, 0.0, (0.0, 1.0))
    found = np.concatenate(taught.advantages)
    assert found.mean() == pytest.approx(12)
    assert found.std() == pytest.approx(1, abs=1e-6)


def test_every_prompt_has_its_turn():
    seen = list(itertools.chain(*(chosen_prompts(10, 4, 0, number) for number in range(5))))
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert chosen_prompts(10, 4, 0, 3) == seen[12:16]
    assert chosen_prompts(10, 4, 1, 0) != seen[:4]


# -- the loss on a model --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gae", "rloo", "group"])
def test_the_whole_loss_equals_the_numpy_copy(tiny_model, kind):
    chance = np.random.default_rng(5)
    model = load(str(tiny_model))
    attach(model.module, Settings().lora())
    policy = make_policy(model)
    if kind == "gae":
        policy.trainable.value_head = RewardHead(64)
        policy.trainable.value_head.weight = mx.array(chance.normal(size=64), mx.float32)
    config = Config(advantage=kind, value_weight=0.3, temperature=0.8)
    examples = [Example([5, 6, 7], [], []), Example([9] * 5, [], [])]
    lengths = [[3, 1], [5, 2]]

    def noise(spread):
        return [[list(chance.normal(size=n) * spread) for n in row] for row in lengths]

    ids = [[list(map(int, chance.integers(3, 300, n))) for n in row] for row in lengths]
    old, behind, values = noise(1), noise(1), noise(1)
    given = [
        Answers(p, ids[p], ["", ""], [True, True], [1.0, 0.0], old[p], behind[p], values[p])
        for p in range(2)
    ]
    # first what the model says, then old log-probs near it, so that ratios lie around the clip
    blank = ppo.targets(given, config, 0.1, (0.0, 1.0))
    batch = ppo.phase_batch(examples, given, blank, 0.1, [0, 1])
    logps, says = ppo.token_values(policy, batch, 0.8)
    flat = np.array(logps, np.float64)
    moved = flat + chance.normal(size=len(flat)) * 0.3
    batch.extra["old_logps"] = mx.array(moved, mx.float32)
    total, metrics = ppo.loss(config)(policy, batch)

    counts, cuts = [3, 1, 5, 2], [3, 4, 9]
    own = np.split(flat, cuts)
    per_token = [np.split(np.array(batch.extra[name], np.float64), cuts)
                 for name in ("old_logps", "reference")]  # fmt: skip
    advantages = blank.advantages
    expected = 0.0
    for row in range(4):
        log_ratio = own[row] - per_token[0][row]
        if kind == "rloo":
            log_ratio = log_ratio.sum(keepdims=True)
        value, _ = reference.ppo_clip(np.exp(log_ratio), advantages[row], 0.2)
        share = counts[row] if kind == "group" else 1
        expected += value.sum() / share
        if kind == "group":
            expected += 0.1 * reference.kl_k3(own[row], per_token[1][row])[0].sum() / share
    if kind == "gae":
        old_values = np.concatenate([np.array(v) for one in given for v in one.values])
        returns = np.concatenate(blank.returns)
        value, _ = reference.value_clip(np.array(says, np.float64), old_values, returns, 0.2)
        expected += 0.3 * value.sum()
    assert total.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    units = ppo.weight(config, batch)
    assert units == (11 if kind == "gae" else 4)
    assert 0 < metrics["clipfrac"].item() / units < 1
    assert metrics["approx_kl"].item() > 0
    # the temperature is the policy's: the same as logits divided by it
    hidden = policy.backbone(mx.array([examples[0].prompt + ids[0][0]]))
    logits = np.array(policy.head(hidden)[0].astype(mx.float32), np.float64)[2:5] / 0.8
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = [logits[t, token] for t, token in enumerate(ids[0][0])]
    assert flat[:3] == pytest.approx(wanted, abs=1e-4)


def test_a_value_head_on_disk(tmp_path):
    head = RewardHead(8)
    head.weight = mx.arange(8).astype(mx.float32)
    save_value_head(tmp_path, head, (2.5, 0.25))
    again, units = load_value_head(tmp_path, 8)
    assert units == (2.5, 0.25)
    assert mx.array_equal(again.weight, head.weight).item()
    with pytest.raises(UserError, match="no value head of this model"):
        load_value_head(tmp_path, 16)
