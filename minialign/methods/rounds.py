"""The round-based methods: how each selects among its candidates and what it trains with.

What they share, the loop, is in ``rounds``; the settings of the loop are here as well.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from minialign.engine import Sampling
from minialign.errors import UserError
from minialign.methods import METHODS
from minialign.methods.method import require
from minialign.methods.rso import first_round, rejection_sample, tournament
from minialign.methods.winners import above, best_and_worst, pair, top
from minialign.records import Pair, Ranking, Record


@dataclass(frozen=True)
class RoundSettings:
    """What every round-based method can be told: how candidates are sampled and scored."""

    # reward:RUN, dpo:RUN, judge:MODEL, judge:self, exact, ifeval, regex:…, length, python:FILE.py:f
    scorer: str = ""
    # candidates of each prompt, all written and scored: twice as many cost twice
    n: int = 8
    # rounds (default: 3, rso 1; with --max-tokens or --max-minutes as many as these allow)
    rounds: int | None = None
    # prompts of a round, the next ones in each (0: all in every round)
    prompts_per_round: int = 0
    # answers to each held-out prompt, before the first and after every round
    heldout_n: int = 4
    # a system prompt
    system: str | None = None
    # candidates written at once
    rollout_batch: int = 16
    # most tokens of a candidate
    response_length: int = 128
    # 0 takes the most likely token
    temperature: float = 0.7
    # the fewest tokens that hold this much probability
    top_p: float = 1.0
    # the k most likely tokens; 0: all
    top_k: int = 0
    # tokens at least this likely, relative to the most likely one
    min_p: float = 0.0
    # divides the logits of tokens already generated
    repetition_penalty: float = 1.0
    # texts that end a candidate, which is cut before them
    stop: tuple[str, ...] = ()
    # subtracted from the score of a candidate that did not end in time; one selected even so is
    # learned as far as it goes, without an end
    eos_penalty: float = 0.0

    def sampling(self) -> Sampling:
        """How candidates are drawn."""
        return Sampling(
            self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty,
            self.response_length, self.stop,
        )  # fmt: skip


@dataclass(frozen=True)
class Expert:
    """Expert iteration: imitate the best of the model's own answers, then sample again.

    Anthony et al. 2017 (arXiv:1705.08439); for language models ReST (Gulcehre et al. 2023,
    arXiv:2308.08998), whose filter is ``above-threshold``.
    """

    # which candidates are imitated: each prompt's best one, or all that score enough
    keep: Literal["top", "above-threshold"] = "top"
    # the score that is enough for --keep above-threshold
    threshold: float | None = None
    # each round trains the last round's adapter on, or anew from where the run started
    train_from: Literal["last", "start"] = "last"
    # files of demonstrations to mix with the winners
    mix: tuple[str, ...] = ()
    # the share of them among a round's training rows
    mix_share: float = 0.5


@dataclass(frozen=True)
class Rso:
    """Statistical rejection sampling optimization (Liu et al. 2023, arXiv:2309.06657)."""

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


@dataclass(frozen=True)
class Online:
    """Online DPO on the best and the worst of fresh samples (Guo et al. 2024, arXiv:2402.04792);
    with ``--scorer judge:self`` self-rewarding (Yuan et al. 2024, arXiv:2401.10020)."""

    # what the policy is held to: the policy as each round starts, or as the run started
    reference: Literal["round", "start"] = "round"
    # sigmoid is DPO; ipo, hinge
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    # how strongly the policy is held to the reference; larger stays closer
    beta: float = 0.1
    # weight of the mean NLL of the better answer, added to the loss (0: none)
    nll_weight: float = 0.0


@dataclass(frozen=True)
class Loop:
    """One round-based method.

    Attributes:
        config: a frozen dataclass of its own settings.
        trains: the training method of a round.
        rounds: how many there are when nothing is said.
        select: (a prompt's candidates, config, chance) -> rows to train on.
        method_config: config -> the training method's own settings.
        check: (config, n) raises a ``UserError`` for settings that make no sense together.
        defaults: of the loop's settings, where they are others.
        fresh: whether each round trains from where the run started.
        fixed_reference: whether the reference is the policy that the run started with.
    """

    name: str
    config: type
    trains: str
    rounds: int
    select: Callable[[Ranking, Any, random.Random], Sequence[Record]]
    method_config: Callable[[Any], Any]
    check: Callable[[Any, int], None]
    defaults: dict[str, Any] = field(default_factory=dict)
    fresh: Callable[[Any], bool] = lambda config: False
    fixed_reference: Callable[[Any], bool] = lambda config: False


def _winners(row: Ranking, config: Expert, chance: random.Random) -> Sequence[Record]:
    return top(row) if config.keep == "top" else above(row, config.threshold or 0.0)


def _check_expert(config: Expert, n: int) -> None:
    if config.keep == "top" and config.threshold is not None:
        raise UserError("--threshold without --keep above-threshold", "leave one of them out")
    if config.keep == "above-threshold" and config.threshold is None:
        raise UserError("--keep above-threshold needs its threshold", "--threshold 0.5")
    if config.keep == "top" and n < 2:
        raise UserError(f"n is {n}: one candidate is always the best", "--n 4")
    if not 0 <= config.mix_share < 1:
        raise UserError(f"mix_share = {config.mix_share}", "0 <= it < 1")


def _accepted_pairs(row: Ranking, config: Rso, chance: random.Random) -> Sequence[Record]:
    accepted = rejection_sample(row.scores, config.accept, config.rejection_beta, chance)
    chance.shuffle(accepted)  # the first passes accept the better ones: pairs shall be any
    ranked = tournament if config.ranking == "tournament" else first_round
    return [pair(row, *places) for places in ranked(accepted, row.scores)]


def _check_rso(config: Rso, n: int) -> None:
    require(config, above_0=("rejection_beta",))
    if config.accept < 2:
        raise UserError(f"accept = {config.accept}", "a pair needs 2 accepted candidates or more")
    if n < config.accept:
        raise UserError(f"--accept {config.accept} of {n} candidates", f"--n {2 * config.accept}")
    METHODS["dpo"].check(_dpo(config))


def _check_online(config: Online, n: int) -> None:
    if n < 2:
        raise UserError(f"n is {n}: a pair needs two candidates", "--n 2 or more")
    METHODS["dpo"].check(_dpo(config))


def _dpo(config: Rso | Online) -> Any:
    weight = getattr(config, "nll_weight", 0.0)
    return METHODS["dpo"].config(loss=config.loss, beta=config.beta, nll_weight=weight)


def _best_and_worst(row: Ranking, config: Online, chance: random.Random) -> list[Pair]:
    return best_and_worst(row)


LOOPS: dict[str, Loop] = {
    "expert": Loop(
        "expert", Expert, "sft", 3, _winners,
        lambda config: METHODS["sft"].config(train_on="last"), _check_expert,
        fresh=lambda config: config.train_from == "start",
    ),
    "rso": Loop("rso", Rso, "dpo", 1, _accepted_pairs, _dpo, _check_rso, {"n": 16}),
    "online-dpo": Loop(
        "online-dpo", Online, "dpo", 3, _best_and_worst, _dpo, _check_online,
        fixed_reference=lambda config: config.reference == "start",
    ),
}  # fmt: skip
