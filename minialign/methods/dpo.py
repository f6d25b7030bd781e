"""Direct preference optimization and its relatives: losses on log-ratios to a reference.

Rafailov et al. 2023 (arXiv:2305.18290). The reference is the policy before training, so its
log-probs are computed once and read from ``batch.extra``; there is never a second model.
"""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from minialign.errors import UserError
from minialign.learn import losses
from minialign.learn.batch import Batch
from minialign.learn.fit import Loss
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy
from minialign.methods.pairs import pair_method, pair_metrics


@dataclass(frozen=True)
class Config:
    """DPO's own settings."""

    # sigmoid is DPO (and cDPO with label smoothing), ipo, hinge, or robust to flipped labels
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    # how strongly the policy is held to the reference; larger stays closer
    beta: float = 0.1
    # the share of pairs assumed to be labelled the wrong way round, 0 to 0.5
    label_smoothing: float = 0.0
    # weight of the mean NLL of the chosen response, added to the loss (0: none)
    nll_weight: float = 0.0


def check(config: Config) -> None:
    """Raise a UserError for values outside the losses' domain."""
    if config.beta <= 0:
        raise UserError(f"beta = {config.beta}", "it must be above 0; 0.1 is usual")
    if not 0 <= config.label_smoothing < 0.5:
        raise UserError(f"label_smoothing = {config.label_smoothing}", "0 <= it < 0.5")
    if config.loss == "robust" and config.label_smoothing == 0:
        raise UserError("robust DPO needs the share of flipped labels", "--label-smoothing 0.1")
    if config.loss in ("ipo", "hinge") and config.label_smoothing:
        said = f"label_smoothing has no meaning for {config.loss}"
        raise UserError(said, "use --loss sigmoid or robust")
    if config.nll_weight < 0:
        raise UserError(f"nll_weight = {config.nll_weight}", "it must not be negative")


def _per_pair(config: Config, chosen: mx.array, rejected: mx.array) -> mx.array:
    match config.loss:
        case "sigmoid":
            return losses.dpo_sigmoid(chosen, rejected, config.beta, config.label_smoothing)
        case "robust":
            return losses.dpo_robust(chosen, rejected, config.beta, config.label_smoothing)
        case "hinge":
            return losses.dpo_hinge(chosen, rejected, config.beta)
        case "ipo":
            return losses.ipo(chosen, rejected, config.beta)


def loss(config: Config) -> Loss:
    """The sum over pairs, with TRL's metric names; responses alternate chosen, rejected."""

    def preference(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, counts = response_logps(policy, batch)
        ratios = logps - batch.extra["reference"]
        rewards = config.beta * ratios
        if config.loss == "ipo":
            ratios = ratios / counts
        values = _per_pair(config, ratios[0::2], ratios[1::2])
        if config.nll_weight:
            values = values + config.nll_weight * (-logps[0::2] / counts[0::2])
        return values.sum(), pair_metrics(rewards, logps, counts)

    return preference


METHOD = pair_method(name="dpo", config=Config, loss=loss, reference=True, check=check)
