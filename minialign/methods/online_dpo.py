"""Online DPO: rounds of DPO on the best and the worst of the model's own fresh answers.

Guo et al. 2024 (arXiv:2402.04792); with ``--scorer judge:self`` self-rewarding (Yuan et al. 2024,
arXiv:2401.10020).
"""

from dataclasses import dataclass, field
from typing import Literal

from minialign.errors import UserError
from minialign.methods import dpo
from minialign.methods.method import Rounds
from minialign.methods.rounds import RoundSettings, check_plan, round_method
from minialign.methods.winners import best_and_worst


@dataclass(frozen=True)
class Config:
    """Online DPO's own settings."""

    plan: RoundSettings = field(default_factory=RoundSettings)
    # what the policy is held to: the policy as each round starts, or as the run started
    reference: Literal["round", "start"] = "round"
    # sigmoid is DPO; ipo, hinge
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    # how strongly the policy is held to the reference; larger stays closer
    beta: float = 0.1
    # weight of the mean NLL of the better answer, added to the loss (0: none)
    nll_weight: float = 0.0

    def train_config(self) -> dpo.Config:
        """What a round's training is told."""
        return dpo.Config(loss=self.loss, beta=self.beta, nll_weight=self.nll_weight)


def check(config: Config) -> None:
    """Raise a UserError for settings that make no sense together."""
    check_plan(config.plan, "online-dpo")
    if config.plan.n < 2:
        raise UserError(f"n is {config.plan.n}: a pair needs two candidates", "--n 2 or more")
    dpo.check(config.train_config())


ROUNDS = Rounds(
    trains=dpo.METHOD,
    train_config=Config.train_config,
    select=lambda row, config, chance: best_and_worst(row),
    fixed_reference=lambda config: config.reference == "start",
)
METHOD = round_method("online-dpo", Config, check, ROUNDS)
