"""Losses by hand and against an independent float64 NumPy copy, values and derivatives."""

import math

import mlx.core as mx
import numpy as np
import pytest
from support import numpy_losses as reference

from minialign.learn import losses

CASES = [
    ("bradley_terry", ()),
    ("bradley_terry", (0.7,)),
    ("dpo_sigmoid", (0.1,)),
    ("dpo_sigmoid", (0.5, 0.2)),
    ("dpo_robust", (0.3, 0.1)),
    ("dpo_hinge", (0.4,)),
    ("ipo", (0.25,)),
]


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_values_and_derivatives_equal_the_numpy_copy(name, arguments, scale):
    random = np.random.default_rng(0)
    chosen, rejected = random.normal(size=(2, 64)) * scale
    expected, slope = getattr(reference, name)(chosen, rejected, *arguments)
    loss = getattr(losses, name)
    a, b = mx.array(chosen, mx.float32), mx.array(rejected, mx.float32)
    np.testing.assert_allclose(np.array(loss(a, b, *arguments)), expected, rtol=1e-5, atol=1e-5)
    by_chosen, by_rejected = mx.grad(lambda a, b: loss(a, b, *arguments).sum(), argnums=(0, 1))(
        a, b
    )
    np.testing.assert_allclose(np.array(by_chosen), slope, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.array(by_rejected), -slope, rtol=1e-5, atol=1e-5)


def test_by_hand():
    zero, one = mx.array([0.0]), mx.array([1.0])
    assert losses.dpo_sigmoid(zero, zero, 0.1).item() == pytest.approx(math.log(2))
    assert losses.dpo_sigmoid(zero, zero, 0.1, 0.3).item() == pytest.approx(math.log(2))
    assert losses.bradley_terry(one, one).item() == pytest.approx(math.log(2))
    assert losses.bradley_terry(one, zero, 1.0).item() == pytest.approx(math.log(2))
    assert losses.dpo_hinge(10 * one, zero, 0.1).item() == 0
    assert losses.dpo_hinge(zero, zero, 0.1).item() == 1
    assert losses.ipo(5 * one, zero, 0.1).item() == 0
    assert losses.ipo(zero, zero, 0.1).item() == pytest.approx(25)
    assert losses.reward_centering(one, -one).item() == 0
    # without flipped labels the robust loss is DPO's
    assert losses.dpo_robust(one, zero, 0.5, 0.0).item() == pytest.approx(
        losses.dpo_sigmoid(one, zero, 0.5).item()
    )


def test_extreme_log_ratios_stay_finite():
    large = mx.array([1e4, -1e4])
    for name, arguments in CASES:
        values = getattr(losses, name)(large, -large, *arguments)
        assert mx.isfinite(values).all().item(), name
