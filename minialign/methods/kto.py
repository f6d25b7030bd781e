"""KTO: Kahneman-Tversky optimization, from single responses rated good or bad.

Ethayarajh et al. 2024 (arXiv:2402.01306) eqs. 7-8. The reference point z0 = max(0, mean log-ratio
of mismatched responses) is the authors' estimate of the KL from the reference: each prompt is also
read with the response of another row (the next one with another prompt), without a gradient, and
the estimate is a micro-batch's mean, so large batches give a steadier one.
"""

from dataclasses import dataclass

import mlx.core as mx

from minialign.learn import losses
from minialign.learn.batch import Batch
from minialign.learn.fit import Loss
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy
from minialign.methods.method import Method, require
from minialign.methods.ratings import check_rows, encode_with_mismatched
from minialign.records import Rated


@dataclass(frozen=True)
class Config:
    """KTO's own settings."""

    # how strongly the policy is held to the reference; larger stays closer
    beta: float = 0.1
    # weight of good responses; the authors advise 1 to 1.33 times as much in all as of the bad
    desirable_weight: float = 1.0
    # weight of bad responses
    undesirable_weight: float = 1.0


def check(config: Config) -> None:
    """Raise a UserError for values outside the loss's domain."""
    require(config, above_0=("beta", "desirable_weight", "undesirable_weight"))


def loss(config: Config) -> Loss:
    """The sum over rated responses, with TRL's metric names."""

    def prospect(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, _ = response_logps(policy, batch)
        ratios = logps - batch.extra["reference"]
        own, other = ratios[0::2], mx.stop_gradient(ratios[1::2])
        kl = mx.maximum(other.mean(), 0.0)
        good = mx.array([float(example.meta["good"]) for example in batch.examples])
        weights = (config.desirable_weight, config.undesirable_weight)
        values = losses.kto(own, good, kl, config.beta, *weights)
        metrics = {
            "kl": kl * batch.size,
            "good": good.sum(),
            "good/rewards": config.beta * (good * own).sum(),
            "bad/rewards": config.beta * ((1 - good) * own).sum(),
            "ratings/accuracies": ((own > kl) == (good > 0)).sum(),
        }
        return values.sum(), metrics

    return prospect


def derived(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics, with the mean reward of good and of bad responses by themselves."""
    sums = ("good", "good/rewards", "bad/rewards")
    shown = {name: value for name, value in metrics.items() if name not in sums}
    share = metrics["good"]
    if share > 0:
        shown["rewards/chosen"] = metrics["good/rewards"] / share
    if share < 1:
        shown["rewards/rejected"] = metrics["bad/rewards"] / (1 - share)
    if 0 < share < 1:
        shown["rewards/margins"] = shown["rewards/chosen"] - shown["rewards/rejected"]
    return shown


METHOD = Method(
    name="kto",
    config=Config,
    record=Rated,
    loss=loss,
    unit="examples",
    needs="responses rated good or bad (pairs count as one of each)",
    reference=True,
    check=check,
    check_rows=check_rows,
    encode=encode_with_mismatched,
    derived=derived,
)
