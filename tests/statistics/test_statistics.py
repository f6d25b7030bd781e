"""The statistics by hand, against brute force, and on simulated data whose truth is known."""

import math
import random

import numpy as np
import pytest

from minialign.statistics import bradley_terry, logistic
from minialign.statistics.agreement import (
    accuracy,
    ceiling,
    cohen_kappa,
    count_agreement,
    swap_agreement,
)
from minialign.statistics.bias import (
    baselines,
    conflict_rate,
    first_slot_rate,
    lean,
    longer,
    shorter,
)
from minialign.statistics.bootstrap import (
    mean_interval,
    paired_difference,
    share_interval,
    statistic_interval,
)
from minialign.statistics.bradley_terry import Game
from minialign.statistics.calibration import calibration_error, reliability
from minialign.statistics.length_control import length_controlled, length_feature
from minialign.statistics.shares import wilson
from minialign.statistics.styles import style_matrix, style_of

# ---- intervals --------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_that_of_the_normal_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean, low, high = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values, seed=1) != mean_interval(values)
    assert all(map(math.isnan, mean_interval([])))


def test_asking_the_same_prompts_four_times_makes_no_interval_narrower():
    values = np.random.default_rng(1).random(60)
    once = mean_interval(values)
    repeated, names = np.repeat(values, 4), [f"p{i}" for i in np.repeat(range(60), 4)]
    assert mean_interval(repeated, names) == pytest.approx(once)
    naive = mean_interval(repeated)
    assert naive[2] - naive[1] < 0.6 * (once[2] - once[1])
    with pytest.raises(ValueError, match="59 clusters for 60"):
        mean_interval(values, names[:59])


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(2)
    inside = 0
    for trial in range(120):
        _, low, high = mean_interval(generator.random(80) < 0.7, seed=trial)
        inside += low <= 0.7 <= high
    assert 106 <= inside <= 119  # 114 expected


def test_all_wins_are_not_certainty():
    assert share_interval([1.0] * 10) == pytest.approx((1.0, *wilson(10, 10)))
    assert share_interval([0.0] * 8, list("aabbccdd")) == pytest.approx((0.0, *wilson(0, 4)))
    assert share_interval([0.5] * 6) == pytest.approx((0.5, *wilson(3, 6)))
    assert share_interval([1, 0, 1, 1]) == mean_interval([1, 0, 1, 1])
    for score in (1.0, 0.5):  # every resample is the same fit
        won = length_controlled([score] * 4, [1, 2, 3, 9], [2, 2, 2, 2])
        assert (won.low, won.high) == pytest.approx(wilson(4 * won.win_rate, 4))
        games = [Game("a", "b", score, home, 0.5, i) for i in range(4) for home in (1, -1)]
        rate, low, high = bradley_terry.win_rate_interval(games, "a", "b")
        assert (low, high) == pytest.approx(wilson(4 * rate, 4))
        table = bradley_terry.ability_intervals(games, order=True, centred=True)
        assert all(low < ability < high for ability, low, high in table.values())
        fixed = bradley_terry.ability_intervals(games, order=True, reference="b")
        assert fixed["b"] == (0, 0, 0)


def test_a_paired_difference_cancels_what_both_share():
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 5, 100)
    a, b = hard + generator.normal(0.5, 0.2, 100), hard + generator.normal(0, 0.2, 100)
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx((a - b).mean())
    assert 0.4 < low < difference < high < 0.6
    with pytest.raises(ValueError, match="2 values against 1"):
        paired_difference([1, 2], [1])


def test_any_statistic_has_an_interval():
    values = np.random.default_rng(4).normal(0, 1, 50)
    found = statistic_interval(lambda w: float(w @ values / w.sum()), 50, count=2000)
    assert found == pytest.approx(mean_interval(values), abs=1e-9)


# ---- logistic regression ----------------------------------------------------------------------


def test_a_fit_is_where_the_likelihood_has_no_slope():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(300, 3))
    y = (generator.random(300) < logistic.sigmoid(x @ [1.0, -2.0, 0.0])).astype(float)
    y[:40] = 0.5  # ties
    w = generator.integers(1, 4, 300).astype(float)
    found = logistic.fit(x, y, w)
    assert x.T @ (w * (y - logistic.sigmoid(x @ found.coefficients))) == pytest.approx(0, abs=1e-8)
    # a row that counts three times is three rows
    rows = np.repeat(np.arange(300), w.astype(int))
    again = logistic.fit(x[rows], y[rows])
    assert again.coefficients == pytest.approx(found.coefficients)
    assert again.errors == pytest.approx(found.errors)
    assert not found.separable


def test_one_coefficient_by_hand():
    found = logistic.fit(np.ones((10, 1)), np.array([1.0] * 7 + [0.0] * 3))
    assert found.coefficients[0] == pytest.approx(math.log(7 / 3))
    assert found.errors[0] == pytest.approx(1 / math.sqrt(10 * 0.7 * 0.3))


def test_separable_data_are_told_and_stay_finite():
    x = np.array([[1.0, 2], [1, 1], [1, -1], [1, -3]])
    found = logistic.fit(x, np.array([1.0, 1, 0, 0]))
    assert found.separable
    assert np.isfinite(found.coefficients).all()
    assert found.coefficients[1] > 0.5
    twice = logistic.fit(np.ones((5, 2)), np.array([1.0, 0, 1, 0, 1]))  # one column two times
    assert twice.separable
    assert logistic.sigmoid(np.array([-1e4, 0, 1e4])) == pytest.approx([0, 0.5, 1])


# ---- Bradley-Terry ----------------------------------------------------------------------------


def play(strength: dict[str, float], games: int, seed: int, order: float = 0.0) -> list[Game]:
    chance, found = random.Random(seed), []
    for _ in range(games):
        a, b = chance.sample(sorted(strength), 2)
        won = chance.random() < logistic.sigmoid(strength[a] - strength[b] + order)
        found.append(Game(a, b, float(won), 1.0))
    return found


def test_two_players_are_their_odds():
    fitted = bradley_terry.fit([Game("x", "y", 1, weight=30), Game("x", "y", 0, weight=10)])
    assert (fitted.reference, fitted.ability["x"]) == ("x", 0.0)
    assert fitted.ability["y"] == pytest.approx(-math.log(3))
    assert fitted.error["y"] == pytest.approx(1 / math.sqrt(40 * 0.75 * 0.25))
    assert fitted.beats("x", "y") == pytest.approx(0.75)
    tied = bradley_terry.fit([Game("x", "y", 0.5), Game("x", "y", 1), Game("x", "y", 0)])
    assert tied.beats("x", "y") == pytest.approx(0.5)


def test_abilities_and_order_effect_are_recovered_within_their_intervals():
    truth = {"a": 0.0, "b": 0.8, "c": -0.5, "d": 1.5}
    games = play(truth, 3000, seed=1, order=0.4)
    fitted = bradley_terry.fit(games, order=True, reference="a")
    for name, value in truth.items():
        assert abs(fitted.ability[name] - value) <= 2.6 * fitted.error[name] + 1e-12
    assert abs(fitted.order - 0.4) < 2.6 * fitted.order_error
    assert not fitted.separable
    intervals = bradley_terry.ability_intervals(games, order=True, reference="a", count=100)
    for name in "bcd":
        value, low, high = intervals[name]
        assert value == pytest.approx(fitted.ability[name])
        assert high - low == pytest.approx(3.92 * fitted.error[name], rel=0.35)


def test_a_position_bias_is_taken_out():
    # equally good, judged always with x first: the judge likes what comes first
    chance = random.Random(3)
    games = []
    for item in range(300):
        for home in (1, -1):
            won = chance.random() < logistic.sigmoid(2.0 * home + 0.5)
            games.append(Game("x", "y", float(won), home, cluster=item))
    one_order = [game for game in games if game.home > 0]
    assert bradley_terry.fit(one_order).beats("x", "y") > 0.85
    fitted = bradley_terry.fit(games, order=True)
    assert fitted.order == pytest.approx(2.0, abs=0.4)
    rate, low, high = bradley_terry.win_rate_interval(games, "x", "y", count=100)
    assert low < float(logistic.sigmoid(0.5)) < high
    assert rate == pytest.approx(fitted.beats("x", "y"))


def test_who_never_lost():
    unbeaten = bradley_terry.fit([Game("x", "y", 1.0)] * 5)
    assert unbeaten.separable
    assert 0.5 < unbeaten.beats("x", "y") < 1
    assert math.isfinite(unbeaten.error["y"])
    with pytest.raises(ValueError, match="against itself"):
        bradley_terry.fit([Game("x", "x", 1.0)])
    with pytest.raises(ValueError, match="does not play"):
        bradley_terry.fit([Game("x", "y", 1.0)], reference="z")


# ---- length control ---------------------------------------------------------------------------


def judged_by_length(n: int, theta: float, phi: float, bias: float, seed: int):
    """Verdicts of a judge with a known length effect, over answers that are ``bias`` longer."""
    generator = np.random.default_rng(seed)
    ours = np.exp(generator.normal(6 + bias, 0.5, n)).astype(int)
    theirs = np.exp(generator.normal(6, 0.5, n)).astype(int)
    chance = logistic.sigmoid(theta + phi * length_feature(ours, theirs))
    return (generator.random(n) < chance).astype(float), ours, theirs


@pytest.mark.parametrize(("theta", "phi"), [(0.0, 2.0), (-0.6, 1.5), (0.8, 0.0), (0.3, -1.0)])
def test_the_length_controlled_rate_recovers_the_truth(theta: float, phi: float):
    wins, ours, theirs = judged_by_length(900, theta, phi, bias=0.6, seed=2)
    found = length_controlled(wins, ours, theirs)
    truth = float(logistic.sigmoid(theta))
    assert found.low < truth < found.high
    assert abs(found.slope - phi) < 2.6 * found.slope_error
    if phi > 1:  # the plain win rate is far off
        _, low, high = share_interval(wins)
        assert not low < truth < high


def test_the_interval_of_the_length_controlled_rate_covers():
    truth, inside = float(logistic.sigmoid(0.4)), 0
    for seed in range(12):
        wins, ours, theirs = judged_by_length(200, 0.4, 1.2, 0.5, seed)
        found = length_controlled(wins, ours, theirs, seed=seed)
        inside += found.low <= truth <= found.high
    assert inside >= 10  # 11.4 expected


def test_length_control_where_there_is_nothing_to_control():
    same = length_controlled([1, 0, 1, 1], [50] * 4, [50] * 4)
    assert same.win_rate == pytest.approx(0.75)
    assert same.slope == 0
    always = length_controlled([1.0] * 6, [9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6])
    assert always.separable
    assert 0.5 < always.win_rate < 1
    # d / std(d) with n - 1, in tanh
    assert length_feature([10, 20], [10, 10]) == pytest.approx([0, math.tanh(math.sqrt(2))])


# ---- agreement --------------------------------------------------------------------------------


def test_accuracy_by_hand():
    gold = ["a", "a", "b", "tie"]
    forward, backward = ["a", "b", "tie", "a"], ["a", "unparsed", "b", "b"]
    assert accuracy(forward, gold) == pytest.approx(1.5 / 3)
    assert accuracy(backward, gold) == pytest.approx(2 / 3)
    assert swap_agreement(forward, backward) == pytest.approx(1 / 4)
    assert conflict_rate(forward, backward) == pytest.approx(3 / 4)
    assert math.isnan(accuracy(["a"], ["tie"]))
    flipped = [{"a": "b", "b": "a"}.get(choice, choice) for choice in gold]
    assert accuracy(forward, flipped) == pytest.approx(1 - accuracy(forward, gold))


def test_kappa_by_hand():
    # Cohen 1960-style table: 20 both yes, 5 and 10 apart, 15 both no
    x = ["a"] * 25 + ["b"] * 25
    y = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15
    assert cohen_kappa(x, y) == pytest.approx(0.4)
    assert cohen_kappa(x, x) == 1
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))
    assert cohen_kappa(["a", "b"], ["tie", "tie"]) == 0


def test_votes_are_counted_as_mtbench_does():
    people = {1: ["a", "a", "tie"], 2: ["b"], 3: ["b", "a"]}
    judge = {1: ["a"], 2: ["tie"], 4: ["a"]}
    assert count_agreement(judge, people) == (2, 4)
    assert count_agreement(judge, people, ties=False) == (2, 2)
    assert ceiling(people) == (1, 4)
    assert ceiling(people, ties=False) == (1, 2)


# ---- bias -------------------------------------------------------------------------------------


def test_position_bias_by_hand():
    always_first = ["a"] * 4, ["b"] * 4
    assert first_slot_rate(*always_first) == 1
    assert conflict_rate(*always_first) == 1
    steady = ["a", "b", "a", "b"]
    assert first_slot_rate(steady, steady) == 0.5
    assert first_slot_rate(["a", "tie"], ["b", "unparsed"]) == 1
    assert math.isnan(first_slot_rate(["tie"], ["tie"]))


def test_a_judge_that_is_right_has_no_length_bias():
    generator = np.random.default_rng(8)
    more = generator.normal(0, 1, 400)
    # the better answer is mostly the longer one, as in most gold sets
    gold = ["a" if d + generator.normal(0, 1) > 0 else "b" for d in more]
    right = lean(gold, gold, more)
    assert right.rate == pytest.approx(0.5)
    by_length = lean(["a" if d > 0 else "b" for d in more], gold, more)
    assert by_length.rate == 1
    assert by_length.separable
    quality = np.array([1 if g == "a" else -1 for g in gold])
    chance = logistic.sigmoid(1.0 * quality + 0.7 * more / more.std())
    choices = ["a" if generator.random() < p else "b" for p in chance]
    found = lean(choices, gold, more)
    assert abs(found.slope - 0.7) < 2.6 * found.error
    assert found.clear
    assert found.rate > 0.55
    shorter = lean(["b" if c == "a" else "a" for c in choices],
                   ["b" if g == "a" else "a" for g in gold], more)  # fmt: skip
    assert shorter.slope == pytest.approx(-found.slope)
    assert lean(["a"], ["a"], [0]) is None
    assert lean(["unparsed"], ["a"], [2]) is None


def test_equal_gold_uses_ties_too():
    found = lean(["a", "a", "b", "tie"], ["tie"] * 4, [3, 1, 2, 5])
    assert found.rate == pytest.approx(2.5 / 4)


def test_baselines_by_hand():
    a, b, gold = ["long one", "x", "same"], ["x", "longer", "four"], ["a", "a", "b"]
    assert longer(a, b) == ["a", "b", "tie"]
    assert shorter(a, b) == ["b", "a", "tie"]
    assert baselines(a, b, gold)["longer wins"]["accuracy"] == pytest.approx(0.5)
    assert baselines(a, b, ["b", "a", "b"])["shorter wins"]["accuracy"] == pytest.approx(2.5 / 3)
    assert baselines(a, b, gold)["coin"] == {"accuracy": 0.5, "agreement": 0.5}


# ---- calibration, styles ----------------------------------------------------------------------


def test_calibration_by_hand_and_for_a_judge_that_knows():
    bins = reliability([0.95, 0.05, 0.95, 0.6], [1, 0, 0, 1])
    assert [(one.count, round(one.accuracy, 3)) for one in bins] == [(1, 1.0), (3, 0.667)]
    assert calibration_error(bins) == pytest.approx((0.4 + 3 * abs(2 / 3 - 0.95)) / 4)
    generator = np.random.default_rng(9)
    p = generator.random(4000)
    known = reliability(p, generator.random(4000) < p)
    assert calibration_error(known) < 0.03
    assert math.isnan(calibration_error(reliability([], [])))
    (sure,) = reliability([1.0], [1])
    assert (sure.low, sure.high) == (0.9, 1.0)


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("One plain sentence.", "short"),
        ("It has more words than the median of all of them has.", "long"),
        ("Do this:\n- first\n- second", "formatted"),
        ("1. one\n2. two", "formatted"),
        ("# Title\ntext", "formatted"),
        ("This is **bold**.", "formatted"),
        ("```\ncode\n```", "formatted"),
        ("In 1999 it was - well - fine.", "long"),
    ],
)
def test_styles(text: str, style: str):
    assert style_of(text, 5) == style


def test_the_style_matrix_counts_each_pair_once():
    better = ["short one", "- a\n- b", "short too"]
    worse = ["one two three four five six", "plain", "- x\n- y"]
    cells = style_matrix(better, worse, [1, 0, 0.5])
    assert sum(cell.count for cell in cells) == 3
    assert {(c.better, c.worse): c.accuracy for c in cells} == {
        ("short", "long"): 1, ("formatted", "short"): 0, ("short", "formatted"): 0.5,
    }  # fmt: skip
