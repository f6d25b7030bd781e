"""What methods on preference pairs share: their rows, and TRL's metrics, summed over the pairs."""

from functools import partial

import mlx.core as mx

from minialign.methods.method import Method
from minialign.records import Pair

NEEDS = "a prompt with a chosen and a rejected response"
pair_method = partial(Method, record=Pair, unit="examples", needs=NEEDS)


def reward_metrics(rewards: mx.array) -> dict[str, mx.array]:
    """Sums over pairs, from the (2B,) rewards of responses that alternate chosen, rejected."""
    chosen, rejected = rewards[0::2], rewards[1::2]
    return {
        "rewards/chosen": chosen.sum(),
        "rewards/rejected": rejected.sum(),
        "rewards/margins": (chosen - rejected).sum(),
        "rewards/accuracies": (chosen > rejected).sum(),
    }


def pair_metrics(rewards: mx.array, logps: mx.array, counts: mx.array) -> dict[str, mx.array]:
    """Sums over pairs, from (2B,) arrays in which responses alternate chosen, rejected.

    Args:
        rewards: what the method takes for a response's reward.
        logps, counts: summed log-probs of the responses and their tokens.
    """
    return reward_metrics(rewards) | {
        "logps/chosen": logps[0::2].sum(),
        "logps/rejected": logps[1::2].sum(),
        "logps/accuracies": (logps[0::2] > logps[1::2]).sum(),
        "nll/chosen": -(logps[0::2] / counts[0::2]).sum(),
    }
