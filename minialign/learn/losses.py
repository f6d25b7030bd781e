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


def slic_rank(chosen: mx.array, rejected: mx.array, delta: float) -> mx.array:
    """max(0, delta - log pi(y+|x) + log pi(y-|x)); sequence log-probs (B,) -> (B,).

    Zhao et al. 2023, SLiC-HF (arXiv:2305.10425) eq. 1, without its regularization.
    """
    return mx.maximum(0.0, delta - chosen + rejected)


def worse(scores: mx.array, prompt_of: mx.array) -> mx.array:
    """(N, N), true where response i has a lower score than j and answers the same prompt."""
    same = prompt_of[:, None] == prompt_of[None]
    return same & (scores[:, None] < scores[None])


def rrhf_rank(mean_logps: mx.array, worse: mx.array) -> mx.array:
    """Sum over responses j better than i of max(0, p_i - p_j); (N,) -> (N,).

    Yuan et al. 2023, RRHF (arXiv:2304.05302) eq. 2: p are length-normalised log-probs.

    Args:
        mean_logps: (N,), of all responses of a batch.
        worse: (N, N), true where i is worse than j.
    """
    gaps = mx.maximum(0.0, mean_logps[:, None] - mean_logps[None])
    return mx.where(worse, gaps, 0.0).sum(axis=1)


def kto(
    ratios: mx.array, good: mx.array, kl: mx.array | float, beta: float,
    desirable: float = 1.0, undesirable: float = 1.0,
) -> mx.array:  # fmt: skip
    """w (1 - sigmoid(beta (h - kl))) for good answers, w (1 - sigmoid(beta (kl - h))) for bad ones.

    Ethayarajh et al. 2024, KTO (arXiv:2402.01306) eq. 8. Log-ratios h and good (1 or 0) are (B,);
    kl is the estimate z0 of KL(pi || pi_ref), which carries no gradient.
    """
    sign = 2 * good - 1
    weight = good * desirable + (1 - good) * undesirable
    return weight * (1 - mx.sigmoid(sign * beta * (ratios - kl)))


def log_odds(mean_logps: mx.array) -> mx.array:
    """log(p / (1 - p)) of probabilities p = exp(mean_logps), which are below 1; (B,) -> (B,)."""
    below = mx.minimum(mean_logps, -1e-6)  # p = 1 in float32 has no odds
    return below - mx.log(-mx.expm1(below))


def orpo_odds_ratio(chosen: mx.array, rejected: mx.array) -> mx.array:
    """-log sigmoid(log odds(y+|x) - log odds(y-|x)); length-normalised log-probs (B,) -> (B,).

    Hong et al. 2024, ORPO (arXiv:2403.07691) eq. 7: the part that is added to the NLL.
    """
    return -nn.log_sigmoid(log_odds(chosen) - log_odds(rejected))


def simpo(chosen: mx.array, rejected: mx.array, beta: float, gamma: float) -> mx.array:
    """-log sigmoid(beta (p+ - p-) - gamma); length-normalised log-probs (B,) -> (B,).

    Meng et al. 2024, SimPO (arXiv:2405.14734) eq. 6.
    """
    return -nn.log_sigmoid(beta * (chosen - rejected) - gamma)


def ppo_clip(ratio: mx.array, advantages: mx.array, clip: float) -> mx.array:
    """-min(rho A, clip(rho, 1 - e, 1 + e) A); any shape, a token or a whole response each.

    Schulman et al. 2017, PPO (arXiv:1707.06347) eq. 7, as a loss; rho = pi / pi_old.
    """
    return -mx.minimum(ratio * advantages, mx.clip(ratio, 1 - clip, 1 + clip) * advantages)


def value_clip(values: mx.array, old: mx.array, returns: mx.array, clip: float) -> mx.array:
    """max((V - R)^2, (old + clip(V - old, -e, e) - R)^2) / 2; any shape.

    The value loss of PPO's authors' code (openai/baselines, ppo2); InstructGPT and TRL keep it.
    """
    near = old + mx.clip(values - old, -clip, clip)
    return 0.5 * mx.maximum(mx.square(values - returns), mx.square(near - returns))


def kl_k1(logps: mx.array, reference: mx.array) -> mx.array:
    """log pi - log pi_ref of tokens drawn from pi: its mean is KL(pi || pi_ref); any shape.

    Schulman 2020, "Approximating KL divergence", k1: unbiased, and negative as often as not. Its
    gradient by log pi has the mean 0, so it belongs into rewards and not into a loss.
    """
    return logps - reference


def kl_k3(logps: mx.array, reference: mx.array) -> mx.array:
    """exp(x) - 1 - x with x = log pi_ref - log pi, k3 of the same note: unbiased, never negative.

    The KL term in the loss of GRPO, Shao et al. 2024 (arXiv:2402.03300) eq. 4.
    """
    difference = reference - logps
    return mx.expm1(difference) - difference
