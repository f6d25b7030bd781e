"""What an audit says: what the judge gets right, what it leans to, and what to make of it.

Plain dictionaries and numbers, as ``--json`` prints them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from minialign.audit.gold_sets import SWAPPED
from minialign.audit.judged import Judged
from minialign.statistics import agreement, bias
from minialign.statistics.bootstrap import Interval, paired_difference, share_interval
from minialign.statistics.calibration import calibration_error, reliability
from minialign.statistics.styles import style_matrix

ONE_ORDER = 0.10  # up to this share of conflicts a verdict in one order will do
LENGTH_RULES = {"longer wins": bias.longer, "shorter wins": bias.shorter}


def report(items: Sequence[Judged], judge: str, own: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that the audit says.

    Args:
        own: what the answers' origins call the judge itself, for its preference for its own.
    """
    subsets = list(dict.fromkeys(one.gold.subset for one in items))
    rows = [_row(name, [one for one in items if one.gold.subset == name]) for name in subsets]
    whole = _row("all", items)
    if len(rows) != 1:
        rows.append(whole)
    found: dict[str, Any] = {"judge": judge, "items": len(items), "rows": rows}
    found["leans"] = _leans(items, (judge, *own))
    found["decided"] = _decided(items)
    if people := _people(items):
        found["people"] = people
    if consistency := _consistency(items):
        found["consistency"] = consistency
    if calibration := _calibration(items):
        found["calibration"] = calibration
    if styles := _styles(items):
        found["styles"] = styles
    found["conclusion"] = conclusion(items, whole)
    return _plain(found)


def _plain(value: Any) -> Any:
    """JSON has no nan: null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _interval(values: Sequence[float], items: Sequence[Judged]) -> Interval:
    return share_interval(
        values, [str(one.gold.duel.prompt or one.gold.duel.extra) for one in items]
    )


def _row(name: str, items: Sequence[Judged]) -> dict[str, Any]:
    forward, backward = [one.forward for one in items], [one.backward for one in items]
    gold = [one.gold.best for one in items]
    decided = [one for one in items if one.gold.best != "tie"]
    texts = [one for one in items if one.gold.has_texts]
    known = all(one.both_orders for one in items)
    row: dict[str, Any] = {
        "subset": name,
        "items": len(items),
        "unparsed": sum("unparsed" in (one.forward, one.backward) for one in items),
        "accuracy": _interval([one.right for one in decided], decided),
        "agreement": agreement.swap_agreement(forward, backward),
        "kappa": agreement.cohen_kappa(forward + backward, gold * 2),
        "swap_kappa": agreement.cohen_kappa(forward, backward) if known else math.nan,
        "first_slot": bias.first_slot_rate(forward, backward) if known else math.nan,
        "conflict": bias.conflict_rate(forward, backward),
    }
    if len(texts) == len(items):
        a, b = [one.gold.duel.a for one in items], [one.gold.duel.b for one in items]
        row["baselines"] = bias.baselines(a, b, gold)
        longer = zip(items, bias.longer(a, b), strict=True)
        picks = [(c, best) for one, best in longer for c in (one.forward, one.backward)]
        read = [pair for pair in picks if pair[0] != "unparsed"]
        row["longer_chosen"] = agreement.accuracy([c for c, _ in read], [best for _, best in read])
    return row


def _leans(items: Sequence[Judged], own: Sequence[str]) -> dict[str, Any]:
    """Length and self-preference at equal gold; both orders of an item are two choices."""
    choices = [c for one in items for c in (one.forward, one.backward)]
    gold = [one.gold.best for one in items for _ in range(2)]

    def lean(more: list[float]) -> dict[str, Any] | None:
        found = bias.lean(choices, gold, [value for value in more for _ in range(2)])
        return {**asdict(found), "clear": found.clear} if found else None

    def mine(origin: dict[str, Any]) -> bool:
        return bool({str(origin.get(key)) for key in ("model", "adapter")} & set(own))

    leans = {
        "length": lean([float(len(one.gold.duel.a) - len(one.gold.duel.b)) for one in items]),
        "own": lean([
            float(mine(one.gold.duel.a_from)) - float(mine(one.gold.duel.b_from)) for one in items
        ]),
    }  # fmt: skip
    return {name: value for name, value in leans.items() if value}


def _decided(items: Sequence[Judged]) -> dict[str, Any]:
    """What is left when a preference counts only if both orders agree."""
    kept = [one for one in items if one.choice in SWAPPED]
    right = [one for one in kept if one.gold.best != "tie"]
    values = [float(one.choice == one.gold.best) for one in right]
    share = len(kept) / len(items) if items else math.nan
    return {"share": share, "accuracy": _interval(values, right)}


def _people(items: Sequence[Judged]) -> dict[str, Any]:
    """Agreement with each person's vote beside that between people, as MT-bench counts; {} where
    no pair has votes of several people."""
    votes = {i: [choice for _, choice in one.gold.votes] for i, one in enumerate(items)}
    if not any(len(dict(one.gold.votes)) > 1 for one in items):
        return {}
    judge = {i: [one.choice] for i, one in enumerate(items)}
    return {
        "judge_with_ties": agreement.count_agreement(judge, votes),
        "judge_without_ties": agreement.count_agreement(judge, votes, ties=False),
        "people_with_ties": agreement.ceiling(votes),
        "people_without_ties": agreement.ceiling(votes, ties=False),
    }


def _consistency(items: Sequence[Judged]) -> dict[str, Any]:
    """How often one annotator said the same of the same pair again."""
    by_one: dict[Any, list[str]] = {}
    for i, one in enumerate(items):
        for who, choice in one.gold.votes:
            by_one.setdefault((i, who), []).append(choice)
    same, compared = agreement.ceiling(by_one)
    return {"same": same, "compared": compared} if compared else {}


def _calibration(items: Sequence[Judged]) -> dict[str, Any]:
    """Of the probabilities, where there are any; of numbers also what length explains."""
    known = [one for one in items if one.probability is not None and one.gold.best != "tie"]
    found: dict[str, Any] = {}
    if known:
        right = [float(one.gold.best == "a") for one in known]
        bins = reliability([one.probability or 0.0 for one in known], right)
        found = {"error": calibration_error(bins), "bins": [asdict(one) for one in bins]}
    valued = [(one.gold.duel, one.values) for one in items if one.values is not None]
    if len(valued) > 1:
        values = [value for _, pair in valued for value in pair]
        lengths = [len(text) for duel, _ in valued for text in (duel.a, duel.b)]
        differences = [a - b for _, (a, b) in valued], [len(d.a) - len(d.b) for d, _ in valued]
        found["length_correlation"] = _correlation(values, lengths)
        found["length_correlation_in_pairs"] = _correlation(*differences)
    return found


def _correlation(x: Sequence[float], y: Sequence[float]) -> float:
    if np.std(x) == 0 or np.std(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _styles(items: Sequence[Judged]) -> list[dict[str, Any]]:
    known = [one for one in items if one.gold.best != "tie" and one.gold.has_texts]
    duels = [(one.gold.duel.a, one.gold.duel.b) for one in known]
    better = [a if one.gold.best == "a" else b for one, (a, b) in zip(known, duels, strict=True)]
    worse = [b if one.gold.best == "a" else a for one, (a, b) in zip(known, duels, strict=True)]
    cells = style_matrix(better, worse, [one.right for one in known])
    return [asdict(cell) for cell in cells]


def conclusion(items: Sequence[Judged], whole: dict[str, Any]) -> dict[str, Any]:
    """ "usable", "usable with both orders" or "no better than answer length", and why.

    A judge is usable when its accuracy is above a coin's and above that of the better of "longer
    wins" and "shorter wins" (a reward head may have learned nothing but to like short answers),
    both beyond the 95 % interval; in one order when the orders conflict on 10 % of the pairs at
    most.
    """
    decided = [one for one in items if one.gold.best != "tie"]
    _, low, _ = whole["accuracy"]
    why = []
    if not low > 0.5:
        why.append("its accuracy is not shown to be above a coin's 50 %")
    if "baselines" in whole and decided:
        rule = max(LENGTH_RULES, key=lambda name: whole["baselines"][name]["accuracy"])
        if not _ahead(decided, LENGTH_RULES[rule])[1] > 0:
            why.append(f'"{rule}" has {100 * whole["baselines"][rule]["accuracy"]:.1f} %')
    if why:
        return {"word": "no better than answer length", "why": why}
    share = f"the two orders conflict on {100 * whole['conflict']:.0f} % of the pairs"
    if whole["conflict"] <= ONE_ORDER:
        return {"word": "usable", "why": [share]}
    return {"word": "usable with both orders", "why": [share]}


def _ahead(decided: Sequence[Judged], rule: Callable[..., list[str]]) -> Interval:
    """How much more of these is right than by a rule of length; a bootstrap over the prompts."""
    duels = [one.gold.duel for one in decided]
    picks = rule([duel.a for duel in duels], [duel.b for duel in duels])
    by_rule = [
        agreement.accuracy([pick], [one.gold.best])
        for pick, one in zip(picks, decided, strict=True)
    ]
    names = [str(duel.prompt) for duel in duels]
    return paired_difference([one.right for one in decided], by_rule, names)
