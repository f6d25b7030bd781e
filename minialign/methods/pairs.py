"""What methods on preference pairs share: TRL's metrics, summed over a batch's pairs."""

import mlx.core as mx


def pair_metrics(rewards: mx.array, logps: mx.array, counts: mx.array) -> dict[str, mx.array]:
    """Sums over pairs, from (2B,) arrays in which responses alternate chosen, rejected.

    Args:
        rewards: what the method takes for a response's reward.
        logps, counts: summed log-probs of the responses and their tokens.
    """
    chosen, rejected = rewards[0::2], rewards[1::2]
    return {
        "rewards/chosen": chosen.sum(),
        "rewards/rejected": rejected.sum(),
        "rewards/margins": (chosen - rejected).sum(),
        "rewards/accuracies": (chosen > rejected).sum(),
        "logps/chosen": logps[0::2].sum(),
        "logps/rejected": logps[1::2].sum(),
        "logps/accuracies": (logps[0::2] > logps[1::2]).sum(),
        "nll/chosen": -(logps[0::2] / counts[0::2]).sum(),
    }
