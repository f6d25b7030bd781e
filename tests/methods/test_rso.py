"""Rejection sampling against the distribution that it is to draw from; pairs by hand."""

import math
import random
from collections import Counter

import pytest

from minialign.methods.rso import first_round, rejection_sample, tournament
from minialign.methods.winners import above, best_and_worst, pair, top
from minialign.records import Ranking

POLICY = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.08, "e": 0.02}
REWARD = {"a": 0.0, "b": 0.7, "c": 1.0, "d": 1.5, "e": 1.2}


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_the_accepted_follow_the_policy_times_exp_of_the_reward(beta):
    chance, count = random.Random(1), 4000
    drawn = chance.choices(list(POLICY), list(POLICY.values()), k=60_000)
    accepted = rejection_sample([REWARD[y] for y in drawn], count, beta, chance)
    seen = Counter(drawn[i] for i in accepted)
    weights = {y: p * math.exp(REWARD[y] / beta) for y, p in POLICY.items()}
    total = sum(weights.values())
    expected = {y: count * weight / total for y, weight in weights.items()}
    statistic = sum((seen[y] - expected[y]) ** 2 / expected[y] for y in POLICY)
    assert statistic < 18.5  # chi-square, 4 degrees of freedom, 0.1 %
    other = sum((seen[y] - count * p) ** 2 / (count * p) for y, p in POLICY.items())
    assert other > 18.5  # and not the policy itself


def test_a_small_beta_takes_the_best_and_a_large_one_takes_any():
    rewards = [0.1, 0.9, 0.5, 0.9, 0.2]
    assert sorted(rejection_sample(rewards, 2, 1e-3, random.Random(0))) == [1, 3]
    assert sorted(rejection_sample(rewards, 3, 1e-3, random.Random(0))) == [1, 2, 3]
    assert rejection_sample(rewards, 5, 1e9, random.Random(0)) == [0, 1, 2, 3, 4]
    assert rejection_sample([-2000.0, 0.0], 2, 0.1, random.Random(0)) == [1, 0]


def test_none_is_accepted_twice_and_all_can_be():
    for seed in range(50):
        chance = random.Random(seed)
        rewards = [chance.gauss(0, 2) for _ in range(9)]
        found = rejection_sample(rewards, 9, 0.3, chance)
        assert sorted(found) == list(range(9))
    assert rejection_sample([], 0, 1.0, random.Random(0)) == []
    with pytest.raises(ValueError, match="3 of 2"):
        rejection_sample([1.0, 2.0], 3, 1.0, random.Random(0))


def test_pairs_of_the_first_round_and_of_a_tournament_by_hand():
    rewards = [3.0, 5.0, 1.0, 2.0]
    assert first_round([0, 1, 2, 3], rewards) == [(1, 0), (3, 2)]
    assert tournament([0, 1, 2, 3], rewards) == [(1, 0), (3, 2), (1, 3)]
    assert tournament([3, 0, 2, 1], rewards) == [(0, 3), (1, 2), (1, 0)]
    # an odd one out goes on: 0 beats 2, then 1 (of no pair) beats 0
    assert first_round([0, 2, 1], rewards) == [(0, 2)]
    assert tournament([0, 2, 1], rewards) == [(0, 2), (1, 0)]
    # a draw gives no pair, and its first goes on
    assert tournament([0, 1, 2, 3], [4.0, 4.0, 1.0, 2.0]) == [(3, 2), (0, 3)]
    assert tournament([0, 1], [1.0, 1.0]) == tournament([0], [1.0]) == first_round([], []) == []
    places = list(range(8))
    assert len(tournament(places, [float(i) for i in places])) == 7
    assert len(first_round(places, [float(i) for i in places])) == 4


def test_winners_and_losers_of_a_prompt():
    prompt = [{"role": "user", "content": "?"}]
    row = Ranking(prompt, ["x", "y", "x", "z"], [1.0, 3.0, 1.0, 2.0], "f:1")
    (best,) = top(row)
    assert best.messages == [*prompt, {"role": "assistant", "content": "y"}]
    assert [one.messages[-1]["content"] for one in above(row, 1.0)] == ["x", "y", "z"]
    assert [one.messages[-1]["content"] for one in above(row, 2.0)] == ["y", "z"]
    assert above(row, 9.0) == []
    (found,) = best_and_worst(row)
    assert (found.chosen, found.rejected, found.margin, found.source) == ("y", "x", 2.0, "f:1")
    assert pair(row, 3, 0).margin == 1.0
    same = Ranking(prompt, ["x", "y"], [1.0, 1.0])
    assert top(same) == best_and_worst(same) == []
    assert len(above(same, 1.0)) == 2
