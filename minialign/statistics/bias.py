"""What a judge prefers besides quality: the place, the length, its own kind; and the baselines.

Choices as in ``agreement``: "a", "b", "tie", "unparsed", of the responses. Where gold says which
response is better, "at equal quality" means: as often with the better as with the worse of the two
in that role, so that being right is no bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minialign.statistics import logistic
from minialign.statistics.agreement import Choices, accuracy, swap_agreement

SCORES = {"a": 1.0, "b": 0.0, "tie": 0.5}


def scores(choices: Choices) -> np.ndarray:
    """(n,): 1 for a, 0 for b, 0.5 for a tie, nan for an unparsed verdict."""
    return np.array([SCORES.get(choice, np.nan) for choice in choices])


def first_slot_rate(forward: Choices, backward: Choices) -> float:
    """The share of decided verdicts, over both orders, that name the response shown first: 0.5 has
    no position bias. nan when nothing is decided."""
    firsts = [float(c == "a") for c in forward if c in ("a", "b")]
    firsts += [float(c == "b") for c in backward if c in ("a", "b")]
    return float(np.mean(firsts or [np.nan]))


def conflict_rate(forward: Choices, backward: Choices) -> float:
    """The share of items on which the two orders do not say the same (FairEval: Wang et al. 2023,
    arXiv:2305.17926)."""
    return 1 - swap_agreement(forward, backward)


@dataclass(frozen=True)
class Lean:
    """How often one kind of response is chosen over the other, and by how much, gold held equal."""

    rate: float  # 0.5: no bias
    slope: float  # log-odds for it (a length: for one standard deviation more)
    error: float  # of the slope
    count: int  # choices it is of
    separable: bool = False

    @property
    def clear(self) -> bool:
        """Whether 0 is outside the slope's 95 % interval."""
        return bool(abs(self.slope) > 1.96 * self.error)


def lean(choices: Choices, gold: Choices, more: Sequence[float]) -> Lean | None:
    """The preference for the response that has more of something (length; being one's own).

    Args:
        choices, gold: "a", "b" or "tie"; unparsed ones do not count.
        more: (n,) how much more a has than b; its sign alone makes the rate, its size over the
            standard deviation the slope of logit P(a) = quality * gold + slope * more.

    Returns:
        The rate is the mean over the gold strata (better has more, worse has more, tie) that occur;
        None when no choice has a difference.
    """
    y, g = scores(choices), 2 * scores(gold) - 1
    d = np.asarray(more, np.float64)
    used = np.isfinite(y) & np.isfinite(g) & (d != 0)
    if not used.any():
        return None
    y, g, d = y[used], g[used], d[used]
    for_more = np.where(d > 0, y, 1 - y)
    strata = g * np.sign(d)
    rate = float(np.mean([for_more[strata == s].mean() for s in np.unique(strata)]))
    scale = d.std() or np.abs(d).max()
    columns = [d / scale] + ([g] if g.any() else [])
    fit = logistic.fit(np.stack(columns, 1), y)
    return Lean(rate, float(fit.coefficients[0]), float(fit.errors[0]), len(y), fit.separable)


def longer(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """The choices of a judge that takes the longer response (characters); a tie when equal."""
    return [
        "a" if len(x) > len(y) else "b" if len(y) > len(x) else "tie"
        for x, y in zip(a, b, strict=True)
    ]


def shorter(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """The choices of a judge that takes the shorter response; a tie when equal."""
    return longer(b, a)


def baselines(a: Sequence[str], b: Sequence[str], gold: Choices) -> dict[str, dict[str, float]]:
    """Accuracy and swap agreement of judges that read nothing, both orders taken together."""
    return {
        "longer wins": {"accuracy": accuracy(longer(a, b), gold), "agreement": 1.0},
        "shorter wins": {"accuracy": accuracy(shorter(a, b), gold), "agreement": 1.0},
        "first wins": {"accuracy": 0.5, "agreement": 0.0},
        "coin": {"accuracy": 0.5, "agreement": 0.5},
    }
