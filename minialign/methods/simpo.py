"""SimPO: DPO without a reference, on length-normalised log-probs and with a target margin.

Meng et al. 2024 (arXiv:2405.14734) eq. 6.
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
    """SimPO's own settings."""

    # factor on the mean log-probs; the authors use 2 to 10
    beta: float = 2.0
    # gamma, the margin wanted between the rewards; the authors use 0.3 to 0.8 of beta
    gamma: float = 1.0
    # weight of the mean NLL of the chosen response, added to the loss (0: none)
    nll_weight: float = 0.0


def check(config: Config) -> None:
    """Raise a UserError for values outside the loss's domain."""
    require(config, above_0=("beta",), from_0=("gamma", "nll_weight"))


def loss(config: Config) -> Loss:
    """The sum over pairs, with TRL's metric names; a reward is beta times a mean log-prob."""

    def margin(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, counts = response_logps(policy, batch)
        means = logps / counts
        chosen, rejected = means[0::2], means[1::2]
        values = losses.simpo(chosen, rejected, config.beta, config.gamma)
        values = values - config.nll_weight * chosen
        return values.sum(), pair_metrics(config.beta * means, logps, counts)

    return margin


METHOD = pair_method(name="simpo", config=Config, loss=loss, check=check)
