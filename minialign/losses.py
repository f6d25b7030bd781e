"""Preference losses: pure functions of float32 arrays, one value an example; the caller reduces.

Log-probs are natural logarithms, summed over a response's tokens unless a docstring says otherwise.
``chosen`` and ``rejected`` of the DPO family are log-ratios to the reference,
log pi(y|x) - log pi_ref(y|x), shape (B,).
"""

import mlx.core as mx
import mlx.nn as nn


def bradley_terry(chosen: mx.array, rejected: mx.array, margin: mx.array | float = 0.0) -> mx.array:
    """-log sigmoid(r_chosen - r_rejected - margin); rewards (B,) -> (B,).

    Ouyang et al. 2022 (arXiv:2203.02155) eq. 1; the margin is that of Touvron et al. 2023
    (arXiv:2307.09288) eq. 2.
    """
    return -nn.log_sigmoid(chosen - rejected - margin)


def reward_centering(chosen: mx.array, rejected: mx.array) -> mx.array:
    """(r_chosen + r_rejected)^2, which keeps rewards around 0; (B,) -> (B,).

    Eisenstein et al. 2023 (arXiv:2312.09244) section 2.
    """
    return mx.square(chosen + rejected)


def dpo_sigmoid(
    chosen: mx.array, rejected: mx.array, beta: float, label_smoothing: float = 0.0
) -> mx.array:
    """-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), h = chosen - rejected; (B,) -> (B,).

    Rafailov et al. 2023 (arXiv:2305.18290) eq. 7; with e > 0 the conservative DPO of Mitchell 2023.
    """
    logits = beta * (chosen - rejected)
    return -(1 - label_smoothing) * nn.log_sigmoid(logits) - label_smoothing * nn.log_sigmoid(
        -logits
    )


def dpo_robust(
    chosen: mx.array, rejected: mx.array, beta: float, label_smoothing: float
) -> mx.array:
    """Unbiased under labels flipped with probability e < 1/2; (B,) -> (B,).

    (-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e):
    Chowdhury et al. 2024 (arXiv:2403.00409) eq. 9.
    """
    logits = beta * (chosen - rejected)
    kept = -(1 - label_smoothing) * nn.log_sigmoid(logits)
    flipped = label_smoothing * nn.log_sigmoid(-logits)
    return (kept + flipped) / (1 - 2 * label_smoothing)


def dpo_hinge(chosen: mx.array, rejected: mx.array, beta: float) -> mx.array:
    """max(0, 1 - beta h); (B,) -> (B,).

    The normalised hinge of Liu et al. 2023, RSO (arXiv:2309.06657) section 3.4.
    """
    return mx.maximum(0.0, 1.0 - beta * (chosen - rejected))


def ipo(chosen: mx.array, rejected: mx.array, beta: float) -> mx.array:
    """(h - 1 / (2 beta))^2; (B,) -> (B,).

    Azar et al. 2023 (arXiv:2310.12036) eq. 17, with tau = beta. The log-ratios here are means over
    a response's tokens, not sums, as the authors recommend for responses of unequal length.
    """
    return mx.square(chosen - rejected - 1 / (2 * beta))
