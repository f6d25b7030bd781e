"""What an audit says: what the judge gets right, what it leans to, and what to make of it.

Plain dictionaries and numbers, as ``--json`` prints them.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from minialign.audit.outcomes import Outcome
from minialign.audit.reference_labels import SWAPPED
from minialign.statistics import agreement, bias
from minialign.statistics.bootstrap import Interval, paired_difference, share_interval
from minialign.statistics.calibration import calibration_error, reliability
from minialign.statistics.styles import style_matrix

ONE_ORDER = 0.10  # up to this share of conflicts a verdict in one order will do
LENGTH_RULES = {"longer wins": bias.longer, "shorter wins": bias.shorter}


def report(items: Sequence[Outcome], judge: str, own: Sequence[str] = ()) -> dict[str, Any]:
    """Put together everything that the audit says.

    Args:
        own: what the answers' origins call the judge itself, for its preference for its own.
    """
    subsets: dict[str, list[Outcome]] = defaultdict(list)
    for one in items:
        subsets[one.item.subset].append(one)
    rows = [_row(name, part) for name, part in subsets.items()]
    whole = _row("all", items)
    if len(rows) != 1:
        rows.append(whole)
    result: dict[str, Any] = {"judge": judge, "items": len(items), "rows": rows}
    result["leans"] = _leans(items, (judge, *own))
    result["decided"] = _decided(items)
    parts: dict[str, Any] = {"people": _people(items), "consistency": _consistency(items)}
    parts |= {"calibration": _calibration(items), "styles": _styles(items)}
    result |= {name: part for name, part in parts.items() if part}
    result["conclusion"] = conclude(items, whole)
    return _plain(result)


def _plain(value: Any) -> Any:
    """Write null for nan, which JSON has not."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _interval(values: Sequence[float], items: Sequence[Outcome]) -> Interval:
    pairs = [one.item.comparison for one in items]
    return share_interval(values, [str(pair.prompt or pair.extra) for pair in pairs])


def _row(name: str, items: Sequence[Outcome]) -> dict[str, Any]:
    forward, backward = [one.forward for one in items], [one.backward for one in items]
    labels = [one.item.best for one in items]
    decided = [one for one in items if one.item.best != "tie"]
    known = all(one.both_orders for one in items)
    row: dict[str, Any] = {
        "subset": name,
        "items": len(items),
        "unparsed": sum("unparsed" in (one.forward, one.backward) for one in items),
        "accuracy": _interval([one.right for one in decided], decided),
        "agreement": agreement.swap_agreement(forward, backward),
        "kappa": agreement.cohen_kappa(forward + backward, labels * 2),
        "swap_kappa": agreement.cohen_kappa(forward, backward) if known else math.nan,
        "first_slot": bias.first_slot_rate(forward, backward) if known else math.nan,
        "conflict": bias.conflict_rate(forward, backward),
    }
    if all(one.item.has_texts for one in items):
        a, b = [one.item.comparison.a for one in items], [one.item.comparison.b for one in items]
        row["baselines"] = bias.baselines(a, b, labels)
        both = zip(forward + backward, bias.longer(a, b) * 2, strict=True)
        read = [(choice, longer) for choice, longer in both if choice != "unparsed"]
        row["longer_chosen"] = agreement.accuracy([c for c, _ in read], [best for _, best in read])
    return row


def _leans(items: Sequence[Outcome], own: Sequence[str]) -> dict[str, Any]:
    """Length and self-preference at equal labels; both orders of an item are two choices."""
    choices = [c for one in items for c in (one.forward, one.backward)]
    labels = [one.item.best for one in items for _ in range(2)]
    pairs = [one.item.comparison for one in items for _ in range(2)]

    def mine(origin: dict[str, Any]) -> bool:
        return any(str(origin.get(key)) in own for key in ("model", "adapter"))

    more = {
        "length": [float(len(pair.a) - len(pair.b)) for pair in pairs],
        "own": [float(mine(pair.a_from) - mine(pair.b_from)) for pair in pairs],
    }
    leans = {name: bias.lean(choices, labels, values) for name, values in more.items()}
    return {name: {**asdict(one), "clear": one.clear} for name, one in leans.items() if one}


def _decided(items: Sequence[Outcome]) -> dict[str, Any]:
    """What is left when a preference counts only if both orders agree."""
    kept = [one for one in items if one.choice in SWAPPED]
    right = [one for one in kept if one.item.best != "tie"]
    values = [float(one.choice == one.item.best) for one in right]
    share = len(kept) / len(items) if items else math.nan
    return {"share": share, "accuracy": _interval(values, right)}


def _people(items: Sequence[Outcome]) -> dict[str, Any]:
    """Agreement with each person's vote beside that between people, as MT-bench counts; {} where
    no pair has votes of several people."""
    votes = {i: [choice for _, choice in one.item.votes] for i, one in enumerate(items)}
    if not any(len(dict(one.item.votes)) > 1 for one in items):
        return {}
    judge = {i: [one.choice] for i, one in enumerate(items)}
    return {
        "judge_with_ties": agreement.count_agreement(judge, votes),
        "judge_without_ties": agreement.count_agreement(judge, votes, ties=False),
        "people_with_ties": agreement.ceiling(votes),
        "people_without_ties": agreement.ceiling(votes, ties=False),
    }


def _consistency(items: Sequence[Outcome]) -> dict[str, Any]:
    """How often an annotator who got a pair again made the same choice."""
    by_one: dict[Any, list[str]] = defaultdict(list)
    for i, one in enumerate(items):
        for who, choice in one.item.votes:
            by_one[i, who].append(choice)
    same, compared = agreement.ceiling(by_one)
    return {"same": same, "compared": compared} if compared else {}


def _calibration(items: Sequence[Outcome]) -> dict[str, Any]:
    """Of the probabilities, where there are any; of numbers also what length explains."""
    known = [one for one in items if one.probability is not None and one.item.best != "tie"]
    row: dict[str, Any] = {}
    if known:
        right = [float(one.item.best == "a") for one in known]
        bins = reliability([one.probability or 0.0 for one in known], right)
        row = {"error": calibration_error(bins), "bins": [asdict(one) for one in bins]}
    valued = [(one.item.comparison, one.values) for one in items if one.values is not None]
    if len(valued) > 1:
        values = np.array([given for _, given in valued])  # (pairs, 2)
        lengths = np.array([(len(pair.a), len(pair.b)) for pair, _ in valued])
        row["length_correlation"] = _correlate(values, lengths)
        row["length_correlation_in_pairs"] = _correlate(-np.diff(values), -np.diff(lengths))
    return row


def _correlate(x: np.ndarray, y: np.ndarray) -> float:
    if np.std(x) == 0 or np.std(y) == 0:
        return math.nan
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def _styles(items: Sequence[Outcome]) -> list[dict[str, Any]]:
    known = [one for one in items if one.item.best != "tie" and one.item.has_texts]
    pairs = [(one.item.comparison, one.item.best) for one in known]
    ordered = [pair if best == "a" else pair.swapped() for pair, best in pairs]
    better, worse = [pair.a for pair in ordered], [pair.b for pair in ordered]
    return [asdict(cell) for cell in style_matrix(better, worse, [one.right for one in known])]


def conclude(items: Sequence[Outcome], whole: dict[str, Any]) -> dict[str, Any]:
    """ "usable", "usable with both orders" or "no better than answer length", and why.

    A judge is usable when its accuracy is above a coin's and above that of the better of "longer
    wins" and "shorter wins" (a reward head may have learned nothing but to like short answers),
    both beyond the 95 % interval; in one order when the orders conflict on 10 % of the pairs at
    most.
    """
    decided = [one for one in items if one.item.best != "tie"]
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
    word = "usable" if whole["conflict"] <= ONE_ORDER else "usable with both orders"
    return {"word": word, "why": [share]}


def _ahead(decided: Sequence[Outcome], rule: Callable[..., list[str]]) -> Interval:
    """How much more of these is right than by a rule of length; a bootstrap over the prompts."""
    pairs = [one.item.comparison for one in decided]
    picks = zip(rule([pair.a for pair in pairs], [pair.b for pair in pairs]), decided, strict=True)
    by_rule = [agreement.accuracy([pick], [one.item.best]) for pick, one in picks]
    names = [str(pair.prompt) for pair in pairs]
    return paired_difference([one.right for one in decided], by_rule, names)
