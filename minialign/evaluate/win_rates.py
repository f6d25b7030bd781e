"""Win rates of verdicts: plain, length-controlled, position-debiased; a leaderboard of several.

Plain dictionaries and numbers, as ``evaluate --json`` prints them. A tie is half a win, an unparsed
verdict is none and counts apart.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from minialign.durable import digest
from minialign.judge import decide
from minialign.records import Comparison, Verdict
from minialign.statistics import bias, bradley_terry
from minialign.statistics.bootstrap import Interval, share_interval
from minialign.statistics.bradley_terry import Game
from minialign.statistics.length_control import length_controlled
from minialign.statistics.logistic import sigmoid

SCORES = bias.SCORES
Judgement = tuple[Comparison, Verdict]  # in the order of the comparisons


def report(judgements: Sequence[Judgement], judge: str) -> dict[str, Any]:
    """Put together everything that the evaluation says."""
    pairs: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for one in judgements:
        pairs[_names(one)].append(one)
    rows = [_pair(*names, members) for names, members in pairs.items()]
    result: dict[str, Any] = {"judge": judge, "pairs": rows}
    if len(pairs) > 1 and _read(judgements):
        result["leaderboard"] = rank_systems(judgements)
    return result


def _names(judgement: Judgement) -> tuple[str, str]:
    return judgement[0].a_from["model"], judgement[0].b_from["model"]


def _pair(a: str, b: str, judgements: Sequence[Judgement]) -> dict[str, Any]:
    categories: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        categories[str(one[0].extra.get("category") or "")].append(one)
    rows = []
    if len(categories) > 1:
        rows = [{"category": name, **_plain_rate(part)} for name, part in categories.items()]
    return {"a": a, "b": b, **_rates(judgements), "categories": rows}


def _read(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Those whose verdict could be read."""
    return [one for one in judgements if one[1].choice in SCORES]


def win_rate(verdicts: Sequence[Verdict]) -> Interval:
    """(a's share of the wins, low, high) over those that parse; a bootstrap over the prompts."""
    kept = [one for one in verdicts if one.choice in SCORES]
    scores = [SCORES[one.choice] for one in kept]
    return share_interval(scores, [digest(one.prompt) for one in kept])


def _plain_rate(judgements: Sequence[Judgement]) -> dict[str, Any]:
    choices = [verdict.choice for _, verdict in _read(judgements)]
    row: dict[str, Any] = {
        "prompts": len(judgements),
        "wins": choices.count("a"),
        "ties": choices.count("tie"),
        "losses": choices.count("b"),
        "unparsed": len(judgements) - len(choices),
        "length_a": float(np.mean([len(one.a) for one, _ in judgements])),
        "length_b": float(np.mean([len(one.b) for one, _ in judgements])),
    }
    if choices:
        row["win_rate"] = win_rate([verdict for _, verdict in judgements])
        row["difference_shown"] = not row["win_rate"][1] <= 0.5 <= row["win_rate"][2]
    return row


def _rates(judgements: Sequence[Judgement]) -> dict[str, Any]:
    row = _plain_rate(judgements)
    kept = _read(judgements)
    if not kept:
        return row
    controlled = length_controlled(
        [SCORES[verdict.choice] for _, verdict in kept],
        [len(one.a) for one, _ in kept],
        [len(one.b) for one, _ in kept],
        clusters=[digest(one.prompt) for one, _ in kept],
    )
    row["length_controlled"] = (controlled.win_rate, controlled.low, controlled.high)
    row["length_slope"] = controlled.slope
    a, b = _names(kept[0])
    games = make_games(kept)
    row["position_debiased"] = bradley_terry.win_rate_interval(games, a, b)
    fitted = bradley_terry.fit(games, order=True, reference=b)
    row["order_effect"] = fitted.order
    orders = [[decide([order]) for order in verdict.orders] for _, verdict in kept]
    row["conflict"] = bias.conflict_rate(*zip(*orders, strict=True))
    row["weak_prior"] = controlled.separable or fitted.separable
    return row


def make_games(judgements: Sequence[Judgement]) -> list[Game]:
    """Make a game of each order: the answer that is shown first is at home. One answer's number has
    no order: both games are the same, on neutral ground in sum."""
    return [
        Game(*_names(one), SCORES[decide([order])], home, 0.5, digest(one[0].prompt))
        for one in judgements
        for home, order in zip((1.0, -1.0), one[1].orders, strict=True)
    ]


def rank_systems(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Rank the systems by Bradley-Terry ability, the best first: their chance of beating the
    field's average system, with its interval, and their mean win rate over all comparisons."""
    kept = _read(judgements)
    scored = [(pair, SCORES[one.choice]) for pair, one in kept]
    scored += [(pair.swapped(), 1 - score) for pair, score in scored]  # of the other's view
    rows = []
    intervals = bradley_terry.ability_intervals(make_games(kept), order=True, centred=True)
    for name, (value, low, high) in intervals.items():
        own = [(pair, score) for pair, score in scored if pair.a_from["model"] == name]
        row = {"system": name, "ability": value, "low": low, "high": high}
        row["beats_average"] = [float(sigmoid(one)) for one in (value, low, high)]
        prompts = [digest(pair.prompt) for pair, _ in own]
        row["win_rate"] = share_interval([score for _, score in own], prompts)
        rows.append(row | {"length": float(np.mean([len(pair.a) for pair, _ in own]))})
    return sorted(rows, key=lambda row: -row["ability"])
