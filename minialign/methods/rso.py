"""Statistical rejection sampling: samples of the optimal policy out of samples of another.

Liu et al. 2023 (arXiv:2309.06657), section 3.2 and algorithm 1. Of candidates of pi those are
accepted that follow pi(y) exp(r(y) / beta), what maximises reward - beta KL; then pairs are made of
the accepted, labelled by the reward. Candidates are told apart by their place and not by their
text, as pi is in how often a text was drawn.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from minialign.errors import UserError
from minialign.methods import dpo
from minialign.methods.method import Rounds, require
from minialign.methods.rounds import RoundSettings, check_plan, round_method
from minialign.methods.winners import pair
from minialign.records import Pair, Ranking


@dataclass(frozen=True)
class Config:
    """RSO's own settings."""

    plan: RoundSettings = field(default_factory=RoundSettings)
    # candidates of each prompt that rejection sampling accepts, paired by --ranking (the paper: 8
    # of --n 64; as many as --n: none is rejected)
    accept: int = 8
    # the paper's beta: accepted follow pi exp(r / beta); smaller keeps only the best
    rejection_beta: float = 0.5
    # the accepted as pairs: neighbours, or their winners against each other as well
    ranking: Literal["first-round", "tournament"] = "tournament"
    # sigmoid-norm (DPO) or hinge-norm (SLiC on normalised log-probs)
    loss: Literal["sigmoid", "hinge"] = "sigmoid"
    # the paper's gamma, DPO's beta: how strongly the policy is held to the reference
    beta: float = 0.1

    def train_config(self) -> dpo.Config:
        """What a round's training is told."""
        return dpo.Config(loss=self.loss, beta=self.beta)


def rejection_sample(
    rewards: Sequence[float], count: int, beta: float, chance: random.Random
) -> list[int]:
    """The places of ``count`` accepted candidates, in the order of their acceptance (algorithm 1).

    In each pass over those that are left, one is accepted with probability
    exp((r - r_max) / beta), r_max being the largest reward among them, and is taken out.

    Args:
        beta: above 0; towards 0 only the best is accepted, with a large one all are alike.

    Raises:
        ValueError: when there are fewer candidates than ``count``.
    """
    if not 0 <= count <= len(rewards):
        raise ValueError(f"{count} of {len(rewards)} candidates")
    left = list(range(len(rewards)))
    accepted: list[int] = []
    while len(accepted) < count:
        most = max(rewards[i] for i in left)
        taken = set()
        for i in left:
            if chance.random() < math.exp((rewards[i] - most) / beta):
                accepted.append(i)
                taken.add(i)
                if len(accepted) == count:
                    break
        left = [i for i in left if i not in taken]
    return accepted


def first_round(places: Sequence[int], rewards: Sequence[float]) -> list[tuple[int, int]]:
    """(winner, loser) of neighbours: of n, n // 2 pairs. A draw gives none."""
    couples = zip(places[::2], places[1::2], strict=False)
    ordered = (_ordered(a, b, rewards) for a, b in couples)
    return [(a, b) for a, b in ordered if rewards[a] > rewards[b]]


def tournament(places: Sequence[int], rewards: Sequence[float]) -> list[tuple[int, int]]:
    """(winner, loser) of neighbours, then of the winners, until one is left: of n, n - 1 pairs
    without draws. Of a draw the first goes on; without an opponent one goes on as well."""
    pairs = []
    while len(places) > 1:
        pairs += first_round(places, rewards)
        couples = zip(places[::2], places[1::2], strict=False)
        winners = [_ordered(a, b, rewards)[0] for a, b in couples]
        places = winners + list(places[len(places) - len(places) % 2 :])
    return pairs


def _ordered(a: int, b: int, rewards: Sequence[float]) -> tuple[int, int]:
    return (a, b) if rewards[a] >= rewards[b] else (b, a)


def accepted_pairs(row: Ranking, config: Config, chance: random.Random) -> list[Pair]:
    """Pairs of the candidates that rejection sampling accepts."""
    accepted = rejection_sample(row.scores, config.accept, config.rejection_beta, chance)
    chance.shuffle(accepted)  # the first passes accept the better ones: pairs shall be any
    rank = tournament if config.ranking == "tournament" else first_round
    return [pair(row, *places) for places in rank(accepted, row.scores)]


def check(config: Config) -> None:
    """Raise a UserError for settings that make no sense together."""
    check_plan(config.plan, "rso")
    require(config, above_0=("rejection_beta",))
    if config.accept < 2:
        raise UserError(f"accept = {config.accept}", "a pair needs 2 accepted candidates or more")
    if config.plan.n < config.accept:
        said = f"--accept {config.accept} of {config.plan.n} candidates"
        raise UserError(said, f"--n {2 * config.accept}")
    dpo.check(config.train_config())


ROUNDS = Rounds(trains=dpo.METHOD, train_config=Config.train_config, select=accepted_pairs, usual=1)
METHOD = round_method("rso", Config, check, ROUNDS, defaults={"n": 16})
