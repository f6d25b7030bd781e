"""Losses of the methods besides SFT, DPO and the reward head: against NumPy, by hand, extremes."""

import math

import mlx.core as mx
import numpy as np
import pytest
from support import numpy_losses as reference
from support.method_rows import close

from minialign.learn import losses

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
