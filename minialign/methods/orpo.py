"""ORPO: imitate the chosen response and push its odds above the rejected one's; no reference.

Hong et al. 2024 (arXiv:2403.07691) eq. 6: NLL(y+) + lambda L_OR, with the NLL and the odds on mean
log-probs over a response's tokens.
"""

from dataclasses import dataclass

import mlx.core as mx

from minialign.learn import losses
from minialign.learn.batch import Batch
from minialign.learn.fit import Loss
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy
from minialign.methods.method import require
from minialign.methods.pairs import pair_method, pair_metrics


@dataclass(frozen=True)
class Config:
    """ORPO's own settings."""

    # lambda, the weight of the odds ratio beside the NLL of the chosen response
    beta: float = 0.1


def check(config: Config) -> None:
    """Raise a UserError for values outside the loss's domain."""
    require(config, above_0=("beta",))


def loss(config: Config) -> Loss:
    """The sum over pairs; as in TRL a reward is beta times a mean log-prob."""

    def odds(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, counts = response_logps(policy, batch)
        means = logps / counts
        chosen, rejected = means[0::2], means[1::2]
        ratio = losses.orpo_odds_ratio(chosen, rejected)
        values = config.beta * ratio - chosen
        log_odds = losses.log_odds(chosen) - losses.log_odds(rejected)
        parts = {"odds_ratio_loss": ratio.sum(), "log_odds_chosen": log_odds.sum()}
        return values.sum(), pair_metrics(config.beta * means, logps, counts) | parts

    return odds


METHOD = pair_method(name="orpo", config=Config, loss=loss, check=check)
