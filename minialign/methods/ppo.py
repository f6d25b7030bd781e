"""PPO on a model's own answers, and its kin without a critic: RLOO and GRPO.

Ziegler et al. 2019 (arXiv:1909.08593) and Ouyang et al. 2022 (arXiv:2203.02155): the reward of an
answer minus beta times the KL to the reference, token by token, Schulman et al.'s GAE
(arXiv:1506.02438) and clipped losses (arXiv:1707.06347). RLOO, Ahmadian et al. 2024
(arXiv:2402.14740), takes an answer as one action and the prompt's other answers as its baseline;
GRPO, Shao et al. 2024 (arXiv:2402.03300), their mean and standard deviation.

Here is the mathematics, on answers that are there already; ``training.online`` makes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from minialign.errors import UserError
from minialign.learn import losses
from minialign.learn.batch import Batch, Example, TokenizerLike, TooLong, collate, encode_prompt
from minialign.learn.fit import Loss
from minialign.learn.forward import trained_states
from minialign.learn.policy import Policy
from minialign.learn.selected_logps import selected_logps
from minialign.methods.method import Method, require
from minialign.records import Prompted
from minialign.rewards.spec import parse


@dataclass(frozen=True)
class Config:
    """PPO's own settings."""

    # what an answer is worth, as for best-of-n: reward:RUN, python:FILE.py:function …
    scorer: str = ""
    # gae: PPO with a value head; rloo, group (GRPO): against the other answers to the prompt
    advantage: Literal["gae", "rloo", "group"] = "gae"
    # answers to each prompt
    n: int = 4
    # prompts that are answered before the policy is updated with their answers
    rollout_prompts: int = 8
    # answers to each held-out prompt in an evaluation
    heldout_n: int = 2
    # answers written at once
    rollout_batch: int = 32
    # most tokens of an answer
    response_length: int = 64
    # temperature of the answers; it is the policy at this temperature that is trained
    temperature: float = 1.0
    # times that the answers of a phase are trained on
    ppo_epochs: int = 2
    # how far the ratio to the old policy counts
    clip: float = 0.2
    # how far a value may move from its old one (in standard deviations of the first returns)
    value_clip: float = 0.2
    # weight of the value loss
    value_weight: float = 0.1
    # discount of later rewards
    gamma: float = 1.0
    # lambda of GAE: 1 sees the whole answer, 0 the next value alone
    gae_lambda: float = 0.95
    # weight of the KL to the reference (adaptive: at the start)
    beta: float = 0.05
    # keep beta, or steer it so that the KL of an answer comes to --kl-target
    kl_control: Literal["fixed", "adaptive"] = "fixed"
    # nats of an answer that adaptive control aims at
    kl_target: float = 6.0
    # how much beta changes at most: a fifth of this share a phase
    kl_rate: float = 1.0
    # k1: log-ratio; k3: never negative (default: k1 in rewards, k3 in the loss of group)
    kl_estimator: Literal["k1", "k3"] | None = None
    # subtracted from the reward of an answer that did not end in time
    eos_penalty: float = 1.0
    # divide rewards by their standard deviation in a phase (gae: token by token)
    whiten_rewards: bool = False
    # advantages of a phase with mean 0 and variance 1 (group has that for each prompt)
    whiten_advantages: bool = True


def check(config: Config) -> None:
    """Raise a UserError for values outside the method's domain."""
    if not config.scorer:
        fix = "--scorer reward:RUN, or python:FILE.py:function; more: minialign best-of-n --help"
        raise UserError("no --scorer says what an answer is worth", fix)
    parse(config.scorer)
    counts = ("n", "heldout_n", "rollout_prompts", "rollout_batch", "response_length", "ppo_epochs")
    positive = ("temperature", "clip", "value_clip", "kl_target", "kl_rate")
    require(config, above_0=counts + positive, from_0=("value_weight", "beta", "eos_penalty"))
    for name in ("gamma", "gae_lambda"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} = {getattr(config, name)}", "0 <= it <= 1")
    if config.kl_rate > 5:
        raise UserError(f"kl_rate = {config.kl_rate}", "it must be at most 5")
    if config.advantage != "gae" and config.n < 2:
        said = (
            f"n = {config.n}: {config.advantage} compares the answers to a prompt with each other"
        )
        raise UserError(said, "--n 4, or --advantage gae")
    if config.advantage == "group" and config.kl_estimator == "k1":
        said = "k1 in the loss of group has no gradient on average"
        raise UserError(said, "leave --kl-estimator out")
    if config.advantage == "group" and config.whiten_rewards:
        said = "group divides by each prompt's standard deviation already"
        raise UserError(said, "leave --whiten-rewards out")


def encode_rows(
    rows: Sequence[Prompted], tokenizer: TokenizerLike, limit: int, config: Config
) -> list[Example | TooLong]:
    """Each prompt with n blanks as long as an answer may be; answers will take their place."""
    coded: list[Example | TooLong] = []
    blanks = [[0] * config.response_length] * config.n
    masks = [[1] * config.response_length] * config.n
    for row in rows:
        ids = encode_prompt(row.prompt, tokenizer)
        whole = len(ids) + config.response_length
        example = Example(ids, blanks, masks, row.source, meta={"row": row})
        coded.append(example if whole <= limit else TooLong(row.source, whole, limit))
    return coded


@dataclass(frozen=True)
class Answers:
    """The n answers to one prompt, and what was said of each of their tokens when they were new.
    Plain lists, so that it is stored as JSON without losing a bit."""

    prompt: int  # which training example
    ids: list[list[int]]  # with the end token, where there is one
    texts: list[str]
    ended: list[bool]
    scores: list[float]
    logps: list[list[float]] = field(default_factory=list)  # of the policy that wrote them
    reference: list[list[float]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)  # of the beginning before each token


def gae(rewards: np.ndarray, values: np.ndarray, gamma: float, lambda_: float) -> np.ndarray:
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t; (T,).

    Schulman et al. 2015 (arXiv:1506.02438) eqs. 11, 16. After the last token the value is 0.
    """
    advantages = np.zeros(len(rewards))
    following, after = 0.0, 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * after - values[t]
        following = advantages[t] = delta + gamma * lambda_ * following
        after = values[t]
    return advantages


def rloo(rewards: np.ndarray) -> np.ndarray:
    """Each reward minus the mean of the others of its prompt; (P, n) -> (P, n).

    Ahmadian et al. 2024 (arXiv:2402.14740) eq. 9.
    """
    others = rewards.sum(axis=1, keepdims=True) - rewards
    return rewards - others / (rewards.shape[1] - 1)


def group(rewards: np.ndarray) -> np.ndarray:
    """(r - mean) / standard deviation among the answers to a prompt, 0 where all are equal.

    Shao et al. 2024 (arXiv:2402.03300) section 4.1.2; (P, n) -> (P, n). As in TRL the deviation is
    the sample's, and 1e-4 is added to it.
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)


def whiten(values: np.ndarray, shift_mean: bool = True) -> np.ndarray:
    """Mean 0 (or as it was) and variance 1, as in Ziegler et al.'s code; any shape."""
    mean = values.mean()
    scaled = (values - mean) / np.sqrt(values.var() + 1e-8)
    return scaled if shift_mean else scaled + mean


def next_beta(beta: float, kl: float, config: Config) -> float:
    """The coefficient for the next phase: Ziegler et al. 2019 (arXiv:1909.08593) section 2.2,
    beta (1 + K e) with e = clip(kl / target - 1, -0.2, 0.2)."""
    if config.kl_control == "fixed":
        return beta
    error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
    return beta * (1 + config.kl_rate * error)


def token_kls(answers: Sequence[Answers], config: Config) -> list[np.ndarray]:
    """The KL estimate of each token, an array for each answer."""
    default = "k3" if config.advantage == "group" else "k1"
    estimate = {"k1": losses.kl_k1, "k3": losses.kl_k3}[config.kl_estimator or default]
    return [
        np.array(estimate(mx.array(own), mx.array(reference)), np.float64)
        for one in answers
        for own, reference in zip(one.logps, one.reference, strict=True)
    ]


def describe(answers: Sequence[Answers], config: Config) -> dict[str, float]:
    """Means over the answers: the scorer's reward, nats of KL, tokens, the share that ended."""
    return {
        "reward/mean": float(np.mean([score for one in answers for score in one.scores])),
        "kl": float(np.mean([kl.sum() for kl in token_kls(answers, config)])),
        "response_length": float(np.mean([len(ids) for one in answers for ids in one.ids])),
        "ended": float(np.mean([end for one in answers for end in one.ended])),
    }


@dataclass(frozen=True)
class Targets:
    """What a phase's answers teach, an array for each answer (of all prompts in turn)."""

    advantages: list[np.ndarray]  # one for each token; for rloo one for the answer
    returns: list[np.ndarray]  # what the value head should have said; empty without one
    units: tuple[float, float]  # (shift, scale): a return is shift + scale x the head's output
    metrics: dict[str, float]


def targets(
    answers: Sequence[Answers], config: Config, beta: float, units: tuple[float, float] | None
) -> Targets:
    """Advantages and returns of a phase.

    Args:
        units: those of the value head; None while it is fresh: then they are the mean and the
            standard deviation of these rewards, so that a fresh head says their mean.
    """
    kls = token_kls(answers, config)
    scores = np.array([score for one in answers for score in one.scores])
    ended = np.array([end for one in answers for end in one.ended])
    own = scores - config.eos_penalty * ~ended
    metrics = {**describe(answers, config), "beta": beta}
    shape, cuts = (len(answers), -1), np.cumsum([len(kl) for kl in kls])[:-1]
    if config.advantage == "group":
        each = group(own.reshape(shape)).reshape(-1)
        tokens = [np.full(len(kl), a) for kl, a in zip(kls, each, strict=True)]
        return Targets(tokens, [], (0.0, 1.0), metrics)
    if config.advantage == "rloo":
        rewards = own - beta * np.array([kl.sum() for kl in kls])
        rewards = whiten(rewards, shift_mean=False) if config.whiten_rewards else rewards
        each = rloo(rewards.reshape(shape)).reshape(-1)
        each = whiten(each) if config.whiten_advantages else each
        return Targets(list(each[:, None]), [], (0.0, 1.0), metrics)
    flat = -beta * np.concatenate(kls)
    flat[np.append(cuts, len(flat)) - 1] += own
    rows = np.split(whiten(flat, shift_mean=False) if config.whiten_rewards else flat, cuts)
    if units is None:
        whole = np.array([row.sum() for row in rows])
        spread = float(whole.std())
        units = float(whole.mean()), spread if spread > 1e-6 else 1.0
    shift, scale = units
    old = np.concatenate([np.array(values) for one in answers for values in one.values])
    values = np.split(shift + scale * old, cuts)
    estimates = [
        gae(row, value, config.gamma, config.gae_lambda)
        for row, value in zip(rows, values, strict=True)
    ]
    advantages = np.concatenate(estimates)
    returns = advantages / scale + old
    variance = returns.var()  # 0 is explained where there is nothing to explain
    explained = float(1 - (returns - old).var() / variance) if variance > 1e-12 else 0.0
    metrics["explained_variance"] = explained  # 1 - Var(returns - values) / Var(returns)
    advantages = whiten(advantages) if config.whiten_advantages else advantages
    return Targets(np.split(advantages, cuts), np.split(returns, cuts), units, metrics)


def token_values(
    policy: Policy, batch: Batch, temperature: float
) -> tuple[mx.array, mx.array | None]:
    """(log-probs of the responses' tokens (M,), values of what stands before each (M,)), float32;
    no values without a value head."""
    states, tokens, _ = trained_states(policy, batch)
    head = getattr(policy.trainable, "value_head", None)
    # The head is linear: hidden states divided by the temperature give logits divided by it.
    logps = selected_logps(states / temperature, policy.head, tokens, gradient=policy.gradient)
    return logps, None if head is None else head(states)


def answered(example: Example, answers: Answers) -> Example:
    """A prompt with its answers in the place of the blanks."""
    masks = [[1] * len(ids) for ids in answers.ids]
    return replace(example, responses=answers.ids, masks=masks)


def phase_batch(
    examples: Sequence[Example], answers: Sequence[Answers], taught: Targets, beta: float,
    which: Sequence[int],
) -> Batch:  # fmt: skip
    """The arrays of some prompts of a phase with their answers; per-token arrays are flat (M,)."""
    batch = collate([answered(examples[answers[i].prompt], answers[i]) for i in which])
    n = len(answers[0].ids)
    rows = [n * i + k for i in which for k in range(n)]

    def flat(values: Sequence[Any]) -> mx.array:
        return mx.array(np.concatenate([np.asarray(value, np.float32) for value in values]))

    batch.extra["old_logps"] = flat([logps for i in which for logps in answers[i].logps])
    batch.extra["reference"] = flat([logps for i in which for logps in answers[i].reference])
    batch.extra["advantages"] = flat([taught.advantages[row] for row in rows])
    batch.extra["beta"] = mx.array(beta)
    if taught.returns:
        batch.extra["old_values"] = flat([values for i in which for values in answers[i].values])
        batch.extra["returns"] = flat([taught.returns[row] for row in rows])
    return batch


def weight(config: Config, batch: Batch) -> float:
    """How many units the loss is a sum over: tokens for gae, answers for rloo and group."""
    return batch.trained_tokens if config.advantage == "gae" else batch.responses.shape[0]


def loss(config: Config) -> Loss:
    """The clipped loss; sums over tokens (gae) or answers (rloo; group: of means over tokens).

    ``entropy`` is -log pi of the sampled tokens, whose expectation it is; ``approx_kl`` (Schulman's
    k3) and ``clipfrac`` are those of the old policy and the new one.
    """

    def objective(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, values = token_values(policy, batch, config.temperature)
        extra, lengths = batch.extra, batch.mask.sum(axis=1)
        owners = mx.array(np.repeat(np.arange(len(lengths)), np.array(lengths, np.int64)))
        log_ratio = logps - extra["old_logps"]
        per_token = 1.0 if config.advantage == "gae" else 1 / lengths[owners]
        share = per_token
        if config.advantage == "rloo":
            log_ratio, share = mx.zeros(lengths.shape).at[owners].add(log_ratio), 1.0
        ratio = mx.exp(log_ratio)
        parts = {"policy_loss": losses.ppo_clip(ratio, extra["advantages"], config.clip) * share}
        total = parts["policy_loss"].sum()
        if config.advantage == "group":
            kl = losses.kl_k3(logps, extra["reference"]) * share
            total = total + extra["beta"] * kl.sum()
        if values is not None:
            parts["value_loss"] = losses.value_clip(
                values, extra["old_values"], extra["returns"], config.value_clip
            )
            total = total + config.value_weight * parts["value_loss"].sum()
        parts["approx_kl"] = (ratio - 1 - log_ratio) * share
        parts["clipfrac"] = (mx.abs(ratio - 1) > config.clip) * share
        parts["ratio"] = ratio * share
        parts["entropy"] = -logps * per_token
        return total, {name: part.sum() for name, part in parts.items()}

    return objective


METHOD = Method(
    name="ppo",
    config=Config,
    record=Prompted,
    loss=loss,
    unit="tokens",
    needs="a prompt (what else a row holds is for the scorer)",
    check=check,
    encode=encode_rows,
    defaults={"epochs": 10.0, "learning_rate": 3e-4, "lr_schedule": "constant", "warmup": 0.0},
    unused=("dropout",),  # noise in the ratios
    on_policy=True,
)
