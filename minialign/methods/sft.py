"""Supervised fine-tuning: the mean negative log-likelihood of the assistant's tokens.

What everything else starts from (Ouyang et al. 2022, arXiv:2203.02155, step 1).
"""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from minialign.learn.batch import Batch
from minialign.learn.fit import Loss
from minialign.learn.forward import token_logps
from minialign.learn.policy import Policy
from minialign.methods.method import Method
from minialign.records import Demonstration


@dataclass(frozen=True)
class Config:
    """SFT's own settings."""

    # which assistant turns of a conversation are trained
    train_on: Literal["all", "last"] = "all"


def loss(config: Config) -> Loss:
    """Sum of -log p over trained tokens, and "nll" beside it; the unit is a token."""

    def nll(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, _ = token_logps(policy, batch)
        total = -logps.sum()
        return total, {"nll": total}

    return nll


METHOD = Method(
    name="sft",
    config=Config,
    record=Demonstration,
    loss=loss,
    unit="tokens",
    needs="conversations whose assistant turns are to be imitated",
)
