"""Expert iteration: imitate the best of the model's own answers, then sample again.

Anthony et al. 2017 (arXiv:1705.08439); for language models ReST (Gulcehre et al. 2023,
arXiv:2308.08998), whose filter is ``above-threshold``.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from minialign.errors import UserError
from minialign.methods import sft
from minialign.methods.method import Rounds
from minialign.methods.rounds import RoundSettings, check_plan, round_method
from minialign.methods.winners import above, top
from minialign.records import Ranking, Record


@dataclass(frozen=True)
class Config:
    """Expert iteration's own settings."""

    plan: RoundSettings = field(default_factory=RoundSettings)
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


def select_winners(row: Ranking, config: Config, chance: random.Random) -> Sequence[Record]:
    """The candidates of a prompt that are imitated."""
    return top(row) if config.keep == "top" else above(row, config.threshold or 0.0)


def check(config: Config) -> None:
    """Raise a UserError for settings that make no sense together."""
    check_plan(config.plan, "expert")
    if config.keep == "top" and config.threshold is not None:
        raise UserError("--threshold without --keep above-threshold", "leave one of them out")
    if config.keep == "above-threshold" and config.threshold is None:
        raise UserError("--keep above-threshold needs its threshold", "--threshold 0.5")
    if config.keep == "top" and config.plan.n < 2:
        raise UserError(f"n is {config.plan.n}: one candidate is always the best", "--n 4")
    if not 0 <= config.mix_share < 1:
        raise UserError(f"mix_share = {config.mix_share}", "0 <= it < 1")


ROUNDS = Rounds(
    trains=sft.METHOD,
    train_config=lambda config: sft.Config(train_on="last"),
    select=select_winners,
    fresh=lambda config: config.train_from == "start",
)
METHOD = round_method("expert", Config, check, ROUNDS)
