"""Win rates of verdicts: plain, length-controlled, position-debiased; a leaderboard of several.

Plain dictionaries and numbers, as ``evaluate --json`` prints them. A tie is half a win, an unparsed
verdict is none and counts apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minialign.durable import digest
from minialign.judge import decide
from minialign.judge.ask import Duel
from minialign.records import Verdict
from minialign.statistics import bias, bradley_terry
from minialign.statistics.bootstrap import Interval, share_interval
from minialign.statistics.bradley_terry import Game
from minialign.statistics.length_control import length_controlled
from minialign.statistics.logistic import sigmoid

SCORES = bias.SCORES
Judgement = tuple[Duel, Verdict]  # in the order of the duels


def report(found: Sequence[Judgement], judge: str) -> dict[str, Any]:
    """Everything that the evaluation says."""
    pairs: dict[tuple[str, str], list[Judgement]] = {}
    for duel, verdict in found:
        names = duel.a_from["model"], duel.b_from["model"]
        pairs.setdefault(names, []).append((duel, verdict))
    result: dict[str, Any] = {
        "judge": judge,
        "pairs": [_pair(*names, judgements) for names, judgements in pairs.items()],
    }
    if len(pairs) > 1 and _parsed(found):
        result["leaderboard"] = leaderboard(found)
    return result


def _pair(a: str, b: str, found: Sequence[Judgement]) -> dict[str, Any]:
    categories = list(dict.fromkeys(_category(duel) for duel, _ in found))
    rows = []
    if len(categories) > 1:
        rows = [
            {"category": name, **_plain_rate([one for one in found if _category(one[0]) == name])}
            for name in categories
        ]
    return {"a": a, "b": b, **_rates(found), "categories": rows}


def _category(duel: Duel) -> str:
    return str(duel.extra.get("category") or "")


def _parsed(found: Sequence[Judgement]) -> list[Judgement]:
    return [one for one in found if one[1].choice in SCORES]


def win_rate(verdicts: Sequence[Verdict]) -> Interval:
    """(a's share of the wins, low, high) over those that parse; a bootstrap over the prompts."""
    kept = [one for one in verdicts if one.choice in SCORES]
    return share_interval(
        [SCORES[one.choice] for one in kept], [digest(one.prompt) for one in kept]
    )


def _plain_rate(found: Sequence[Judgement]) -> dict[str, Any]:
    choices = [verdict.choice for _, verdict in _parsed(found)]
    row: dict[str, Any] = {
        "prompts": len(found),
        "wins": choices.count("a"),
        "ties": choices.count("tie"),
        "losses": choices.count("b"),
        "unparsed": len(found) - len(choices),
        "length_a": float(np.mean([len(duel.a) for duel, _ in found])),
        "length_b": float(np.mean([len(duel.b) for duel, _ in found])),
    }
    if choices:
        row["win_rate"] = win_rate([verdict for _, verdict in found])
        row["difference_shown"] = not row["win_rate"][1] <= 0.5 <= row["win_rate"][2]
    return row


def _prompt(duel: Duel) -> str:
    return digest(duel.prompt)


def _rates(found: Sequence[Judgement]) -> dict[str, Any]:
    row = _plain_rate(found)
    kept = _parsed(found)
    if not kept:
        return row
    names = [_prompt(duel) for duel, _ in kept]
    controlled = length_controlled(
        [SCORES[verdict.choice] for _, verdict in kept],
        [len(duel.a) for duel, _ in kept],
        [len(duel.b) for duel, _ in kept],
        clusters=names,
    )
    row["length_controlled"] = (controlled.win_rate, controlled.low, controlled.high)
    row["length_slope"] = controlled.slope
    a, b = kept[0][0].a_from["model"], kept[0][0].b_from["model"]
    games = games_of(kept)
    row["position_debiased"] = bradley_terry.win_rate_interval(games, a, b)
    fitted = bradley_terry.fit(games, order=True, reference=b)
    row["order_effect"] = fitted.order
    orders = [[decide([order]) for order in verdict.orders] for _, verdict in kept]
    row["conflict"] = bias.conflict_rate(*zip(*orders, strict=True))
    row["weak_prior"] = controlled.separable or fitted.separable
    return row


def games_of(found: Sequence[Judgement]) -> list[Game]:
    """A game an order: the answer that is shown first is at home. One answer's number has no order:
    both games are the same, on neutral ground in sum."""
    games = []
    for duel, verdict in found:
        for home, order in zip((1.0, -1.0), verdict.orders, strict=True):
            names = duel.a_from["model"], duel.b_from["model"]
            games.append(Game(*names, SCORES[decide([order])], home, 0.5, _prompt(duel)))
    return games


def leaderboard(found: Sequence[Judgement]) -> list[dict[str, Any]]:
    """The systems by Bradley-Terry ability, the best first: their chance of beating the field's
    average system, with its interval, and their mean win rate over all duels."""
    kept = _parsed(found)
    games = games_of(kept)
    rows = []
    intervals = bradley_terry.ability_intervals(games, order=True, centred=True)
    for name, (value, low, high) in intervals.items():
        mine = [(SCORES[v.choice], d) for d, v in kept if d.a_from["model"] == name]
        mine += [(1 - SCORES[v.choice], d) for d, v in kept if d.b_from["model"] == name]
        win_rate = share_interval([score for score, _ in mine], [_prompt(d) for _, d in mine])
        lengths = [len(d.a) for d, _ in kept if d.a_from["model"] == name]
        lengths += [len(d.b) for d, _ in kept if d.b_from["model"] == name]
        rows.append({
            "system": name, "ability": value, "low": low, "high": high,
            "beats_average": [float(sigmoid(one)) for one in (value, low, high)],
            "win_rate": win_rate, "length": float(np.mean(lengths)),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["ability"])
