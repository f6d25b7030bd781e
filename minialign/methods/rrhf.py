"""RRHF: rank responses by their length-normalised log-probs, imitate the best one.

Yuan et al. 2023 (arXiv:2304.05302) eqs. 1-4: sum over r_i < r_j of max(0, p_i - p_j), plus the
summed NLL of the best. (The authors' code weighs 100 to 1 with the NLL's mean over tokens instead.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from minialign.errors import UserError
from minialign.learn import losses
from minialign.learn.batch import Batch
from minialign.learn.fit import Loss
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy
from minialign.methods.method import Method, require
from minialign.records import Ranking


@dataclass(frozen=True)
class Config:
    """RRHF's own settings."""

    # weight of the ranking
    rank_weight: float = 1.0
    # weight of the summed NLL of the best response (0: none)
    nll_weight: float = 1.0
    # p = log-prob / tokens^this: 1 is the mean over tokens, 0 the sum
    length_penalty: float = 1.0


def check(config: Config) -> None:
    """Raise a UserError for values outside the loss's domain."""
    require(config, from_0=("rank_weight", "nll_weight", "length_penalty"))
    if not config.rank_weight and not config.nll_weight:
        raise UserError("rank_weight and nll_weight are both 0", "one of them must count")


def check_rows(rows: Sequence[Ranking], config: Config) -> None:
    """Raise a UserError when no row says which response is better."""
    if not any(len(set(row.scores)) > 1 for row in rows):
        raise UserError("in every ranking all responses have the same score", "nothing is better")


def loss(config: Config) -> Loss:
    """The sum over rankings; accuracy counts ordered pairs of responses (a tie is wrong)."""

    def ranking(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, counts = response_logps(policy, batch)
        given = [example.meta["scores"] for example in batch.examples]
        scores = mx.array([score for row in given for score in row])
        p = logps / counts**config.length_penalty
        worse = losses.worse(scores, batch.prompt_of)
        rank = losses.rrhf_rank(p, worse).sum()
        first = np.cumsum([0, *map(len, given[:-1])])  # of ties the first is the best
        best = mx.array(first + [int(np.argmax(row)) for row in given])
        metrics = {
            "rank": rank,
            "nll/best": -(logps[best] / counts[best]).sum(),
            "pairs/right": (worse & (p[:, None] < p[None])).sum(),
            "pairs/all": worse.sum(),
            "pairs/margin": mx.where(worse, p[None] - p[:, None], 0.0).sum(),
        }
        return config.rank_weight * rank + config.nll_weight * -logps[best].sum(), metrics

    return ranking


def derived(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics, with the share of pairs that the policy orders alike."""
    shown = {name: value for name, value in metrics.items() if not name.startswith("pairs/")}
    pairs = metrics["pairs/all"] or 1.0
    shown["rewards/accuracies"] = metrics["pairs/right"] / pairs
    shown["rewards/margins"] = metrics["pairs/margin"] / pairs
    return shown


METHOD = Method(
    name="rrhf",
    config=Config,
    record=Ranking,
    loss=loss,
    unit="examples",
    needs="a prompt with two or more responses and their scores",
    check=check,
    check_rows=check_rows,
    derived=derived,
)
