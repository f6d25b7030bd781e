"""The sampler against exact probabilities on toy vocabularies."""

import numpy as np
import pytest

from minialign import cpu
from minialign.engine.next_token import choose, sample_seed, uniforms
from minialign.errors import UserError
from minialign.sampling import Sampling

PROBABILITIES = np.array([0.05, 0.4, 0.02, 0.25, 0.15, 0.08, 0.05])
LOGITS = np.log(PROBABILITIES).astype(np.float32)


def exact(sampling: Sampling) -> np.ndarray:
    """The distribution by its definition, in float64: filters on p, then p^(1/T), renormalised."""
    p = PROBABILITIES
    keep = p >= sampling.min_p * p.max()
    order = np.argsort(-p, kind="stable")
    if sampling.top_k:
        keep &= p >= p[order[min(sampling.top_k, len(p)) - 1]]
    if sampling.top_p < 1:
        count = np.searchsorted(np.cumsum(p[order]), sampling.top_p - 1e-9) + 1
        keep &= p >= p[order[count - 1]]
    weights = np.where(keep, p ** (1 / sampling.temperature), 0)
    return weights / weights.sum()


def drawn(sampling: Sampling, count: int = 20_000) -> np.ndarray:
    """The shares of tokens over evenly spaced uniform numbers: exact to 1 / count."""
    uniform = (np.arange(count) + 0.5) / count
    tokens = choose(np.broadcast_to(LOGITS, (count, len(LOGITS))), sampling, uniform)
    return np.bincount(tokens, minlength=len(LOGITS)) / count


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 0.3},
        {"temperature": 2.5},
        {"temperature": 1.0, "top_p": 0.75},
        {"temperature": 0.5, "top_p": 0.3},
        {"temperature": 1.0, "top_p": 0.97},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.3, "top_k": 3},
        {"temperature": 1.0, "top_k": 100},
        {"temperature": 1.0, "min_p": 0.25},
        {"temperature": 0.8, "min_p": 1.0},
        {"temperature": 1.0, "top_p": 0.9, "top_k": 4, "min_p": 0.3},
        {"temperature": 1.0, "top_p": 0.6, "top_k": 5, "min_p": 0.01},
    ],
)
def test_distribution_is_the_exact_renormalised_one(settings):
    sampling = Sampling(**settings)
    np.testing.assert_allclose(drawn(sampling), exact(sampling), atol=1.01e-4)


def test_random_draws_pass_a_chi_square_test():
    count = 20_000
    tokens = choose(
        np.broadcast_to(LOGITS, (count, len(LOGITS))),
        Sampling(temperature=1.0),
        uniforms(11, count),
    )
    observed = np.bincount(tokens, minlength=len(LOGITS))
    expected = PROBABILITIES * count
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < 22.46  # chi-square, 6 degrees of freedom, p = 0.001


def test_a_nucleus_on_a_large_vocabulary_is_the_smallest_that_holds_its_share():
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 3000)).astype(np.float32) * np.array(
        [[0.1], [1], [3], [8], [30]]
    )
    logits = logits.astype(np.float32)
    count = 500
    for row in logits:
        p = np.exp(row.astype(np.float64) - row.max())
        p /= p.sum()
        order = np.argsort(-p)
        size = int((np.cumsum(p[order]) < 0.9).sum()) + 1
        uniform = (np.arange(count) + 0.5) / count
        tokens = choose(
            np.broadcast_to(row, (count, len(row))), Sampling(temperature=50.0, top_p=0.9), uniform
        )
        assert set(tokens) <= set(order[:size])
        if size < 50:
            assert set(tokens) == set(order[:size])


def test_a_row_does_not_depend_on_the_others():
    random = np.random.default_rng(1)
    logits = random.normal(size=(16, 500)).astype(np.float32) * 4
    uniform = random.random(16)
    seen = random.random((16, 500)) < 0.1
    for sampling in (
        Sampling(temperature=0),
        Sampling(temperature=0.9, top_p=0.8),
        Sampling(temperature=1.2, top_k=7, min_p=0.05, repetition_penalty=1.3),
    ):
        together = choose(logits, sampling, uniform, seen)
        alone = [
            choose(logits[i : i + 1], sampling, uniform[i : i + 1], seen[i : i + 1])[0]
            for i in range(16)
        ]
        assert together.tolist() == alone


def test_greedy_takes_the_first_of_the_largest():
    logits = np.array([[0.0, 2.0, 2.0], [1.0, -1.0, 0.5]], np.float32)
    assert choose(logits, Sampling(temperature=0), np.zeros(2)).tolist() == [1, 0]


def test_a_temperature_near_zero_is_greedy_without_warnings():
    logits = np.array([[0.0, 2.0, 1.9, -np.inf]], np.float32)
    for temperature in (1e-3, 1e-20, 5e-324):
        assert choose(logits, Sampling(temperature=temperature), np.array([0.999])).tolist() == [1]


def test_the_ends_of_the_uniform_range_draw_possible_tokens():
    logits = np.array([[-np.inf, 0.0, 0.0, -np.inf]], np.float32)
    assert choose(logits, Sampling(temperature=1), np.array([0.0])).tolist() == [1]
    assert choose(logits, Sampling(temperature=1), np.array([1 - 2**-53])).tolist() == [2]
    assert choose(logits, Sampling(temperature=1), np.array([1.0])).tolist() == [2]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    logits = np.array([[3.0, 2.0, -1.0], [-0.5, -0.6, -9.0]], np.float32)
    seen = np.array([[True, False, False], [True, False, False]])
    nothing = np.zeros(2)
    assert choose(logits, Sampling(temperature=0), nothing, seen).tolist() == [0, 0]
    penalised = Sampling(temperature=0, repetition_penalty=2.0)
    assert choose(logits, penalised, nothing, seen).tolist() == [1, 1]


@pytest.mark.parametrize("settings", [{}, {"top_k": 1}, {"temperature": 0}])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_named(odd, settings):
    logits = np.array([[0.0, odd], [0.0, 1.0]], np.float32)
    with pytest.raises(UserError, match="not numbers"):
        choose(logits, Sampling(**settings), np.zeros(2))
    with pytest.raises(UserError, match="not numbers"):
        choose(np.full((1, 40), -np.inf, np.float32), Sampling(**settings), np.zeros(1))


@pytest.mark.skipif(not cpu.native(), reason="without the native kernels")
@pytest.mark.parametrize("size", [1, 5, 255, 256, 257, 1000, 49_152])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0, 1e-40])
def test_native_draws_are_numpys(monkeypatch, size, temperature):
    random = np.random.default_rng(size)
    logits = (5 * random.normal(size=(64, size))).astype(np.float32)
    logits[::3, 1:] -= 200  # a single token has all the weight
    logits[::5, -1] = -np.inf if size > 1 else 0
    uniform = random.random(64)
    sampling = Sampling(temperature=temperature)
    native = choose(logits, sampling, uniform)
    assert native.dtype == np.int64
    monkeypatch.setattr(cpu, "draw", lambda *_: None)
    assert native.tolist() == choose(logits, sampling, uniform).tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("min_p", 1.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("max_tokens", 0),
        ("stop", ("ok", "")),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(UserError, match=name.split("_")[0]):
        Sampling(**{name: value})


def test_seeds_of_samples_differ_and_the_first_keeps_its_own():
    seeds = {sample_seed(7, p, i) for p in range(50) for i in range(50)}
    assert len(seeds) == 2500
    assert sample_seed(7, 0, 0) == 7
    assert sample_seed(7, 3, 4) == sample_seed(7, 3, 4) < 2**53
    assert sample_seed(8, 3, 4) != sample_seed(7, 3, 4)
    assert sample_seed(-1, 1, 0) >= 0


def test_more_uniform_numbers_begin_with_the_same():
    np.testing.assert_array_equal(uniforms(5, 10), uniforms(5, 1000)[:10])
    assert abs(uniforms(5, 10_000).mean() - 0.5) < 0.02
