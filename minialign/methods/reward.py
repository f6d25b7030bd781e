"""The reward head: Bradley-Terry on the scalar at each response's last token.

Ouyang et al. 2022 (arXiv:2203.02155) eq. 1, with the margin of Touvron et al. 2023 and the centring
of Eisenstein et al. 2023 as options.
"""

import math
from dataclasses import dataclass

import mlx.core as mx

from minialign.errors import UserError
from minialign.learn import losses
from minialign.learn.batch import Batch
from minialign.learn.fit import Loss
from minialign.learn.forward import last_hidden
from minialign.learn.policy import Policy
from minialign.methods.pairs import pair_method, reward_metrics


@dataclass(frozen=True)
class Config:
    """The reward head's own settings."""

    # subtract the rows' own margin, where they have one, from the reward difference
    margin: bool = False
    # weight of (r_chosen + r_rejected)^2, which keeps rewards around 0
    centering: float = 0.0


def check(config: Config) -> None:
    """Raise a UserError for values outside the loss's domain."""
    if config.centering < 0:
        raise UserError(f"centering = {config.centering}", "it must not be negative")


def loss(config: Config) -> Loss:
    """The sum over pairs; accuracy counts a tie as wrong."""

    def preference(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        rewards = policy.reward(last_hidden(policy, batch))
        chosen, rejected = rewards[0::2], rewards[1::2]
        margin: mx.array | float = 0.0
        if config.margin:
            margin = mx.array([example.meta["margin"] for example in batch.examples])
        values = losses.bradley_terry(chosen, rejected, margin)
        if config.centering:
            values = values + config.centering * losses.reward_centering(chosen, rejected)
        return values.sum(), reward_metrics(rewards) | _moments(rewards, batch.mask.sum(axis=1))

    return preference


def _moments(rewards: mx.array, lengths: mx.array) -> dict[str, mx.array]:
    """Sums from which the correlation of reward and length follows; two responses a unit."""
    return {
        "moment/r": rewards.sum() / 2,
        "moment/l": lengths.sum() / 2,
        "moment/rr": mx.square(rewards).sum() / 2,
        "moment/ll": mx.square(lengths).sum() / 2,
        "moment/rl": (rewards * lengths).sum() / 2,
    }


def derived(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics, with the correlation of a response's reward and its length in tokens."""
    shown = {name: value for name, value in metrics.items() if not name.startswith("moment/")}
    r, length = metrics["moment/r"], metrics["moment/l"]
    spread = (metrics["moment/rr"] - r * r) * (metrics["moment/ll"] - length * length)
    covariance = metrics["moment/rl"] - r * length
    shown["rewards/length_correlation"] = covariance / math.sqrt(spread) if spread > 0 else 0.0
    return shown


METHOD = pair_method(
    name="reward", config=Config, loss=loss, reward_head=True, check=check, derived=derived
)
