"""A training method of your own: minialign train examples/own_method.py --data pairs.jsonl

It is IPO with one change: the gap between the two log-ratios is drawn towards a target that grows
with the pair's margin, so that "much better" pulls further than "a little better":

    (h - (1 + strength * margin) / (2 beta))^2,   h = mean log-ratio of chosen - of rejected

A method is a Config, whose comments are the help texts, and a loss over a batch. Log-probs come
from ``response_logps``, the reference's from the batch; the trainer does all the rest: sampling of
batches, accumulation, evaluation, checkpoints, resuming.
"""

from dataclasses import dataclass

import mlx.core as mx

from minialign.errors import UserError
from minialign.learn.batch import Batch
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy
from minialign.methods import Method
from minialign.records import Pair


@dataclass(frozen=True)
class Config:
    """Flags: --beta and --strength."""

    # how strongly the policy is held to the reference; larger stays closer
    beta: float = 0.1
    # how much a row's margin (0 where it has none) moves the target
    strength: float = 0.5


def check(config: Config) -> None:
    """Say in one line what is wrong with a setting, and what to do about it."""
    if config.beta <= 0:
        raise UserError(f"beta = {config.beta}", "it must be above 0")


def gap_loss(gap: mx.array, margin: mx.array, beta: float, strength: float) -> mx.array:
    """One value a pair: gaps (B,), margins (B,) -> (B,)."""
    return mx.square(gap - (1 + strength * margin) / (2 * beta))


def loss(config: Config):
    """What the trainer calls: (policy, batch) -> (sum over pairs, sums of metrics)."""

    def over_batch(policy: Policy, batch: Batch):
        # Responses alternate: chosen, rejected, chosen, rejected …
        logps, tokens = response_logps(policy, batch)
        ratios = (logps - batch.extra["reference"]) / tokens
        gap = ratios[0::2] - ratios[1::2]
        margin = mx.array([example.meta["margin"] for example in batch.examples])
        values = gap_loss(gap, margin, config.beta, config.strength)
        metrics = {
            "rewards/margins": gap.sum(),
            "rewards/accuracies": (gap > 0).sum(),
        }
        return values.sum(), metrics

    return over_batch


METHOD = Method(
    name="margin-ipo",
    config=Config,
    record=Pair,
    loss=loss,
    unit="examples",  # the loss is a sum over pairs
    needs="a prompt with a chosen and a rejected response, and perhaps a margin",
    reference=True,
    check=check,
)
