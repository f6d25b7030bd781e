"""TRL's own loss code and minialign's on the same log-probs: the largest difference of both.

TRL computes its losses inside methods of its trainers; the methods themselves are called here, on
an object that holds what they read, with a model that returns the given log-probs. minialign's
side is ``methods.dpo`` and ``methods.reward``, with the forward pass replaced likewise. Compared
are each pair's loss and its gradient by every token's log-prob (by every reward). A difference
counts relative to the value where that is above 1.

TRL 1.16 has no conservative DPO any more (label smoothing with the sigmoid loss).
"""

import sys
from collections import defaultdict
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import torch
from measuring import arguments, report

from minialign.learn.batch import Example
from minialign.methods import dpo, reward

LIMIT = 1e-5
BETA = 0.1
DPO = {  # name: (TRL's loss_type, minialign's settings)
    "dpo": ("sigmoid", dpo.Config(loss="sigmoid", beta=BETA)),
    "ipo": ("ipo", dpo.Config(loss="ipo", beta=BETA)),
    "hinge": ("hinge", dpo.Config(loss="hinge", beta=BETA)),
    "robust": ("robust", dpo.Config(loss="robust", beta=BETA, label_smoothing=0.2)),
}
REWARD = {
    "bradley-terry": reward.Config(),
    "bradley-terry, margin": reward.Config(margin=True),
    "bradley-terry, centring": reward.Config(centering=0.01),
}


def rows(count: int) -> dict[str, np.ndarray]:
    """Random log-probs of ``count`` pairs; chosen and rejected alternate; float32."""
    random = np.random.default_rng(0)
    width = 40
    lengths = random.integers(1, width, 2 * count)
    mask = (np.arange(width) < lengths[:, None]).astype(np.float32)
    reference = -random.exponential(2.0, (2 * count, width)) * mask
    tokens = (reference + random.normal(0, 0.6, (2 * count, width))) * mask
    return {
        "mask": mask,
        "tokens": tokens.astype(np.float32),
        "reference": reference.sum(axis=1).astype(np.float32),
        "rewards": random.normal(0, 3, 2 * count).astype(np.float32),
        "margins": random.uniform(0, 2, count).astype(np.float32),
    }


def _trainer(**values: object) -> SimpleNamespace:
    same = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    common = {"accelerator": same, "_metrics": defaultdict(lambda: defaultdict(list))}
    common |= {"model": torch.nn.Identity(), "_total_train_tokens": 0, "_tp_size": 1}
    return SimpleNamespace(**common, **values)


def trl_dpo(given: dict[str, np.ndarray], pair: int, kind: str, config: dpo.Config):
    """(loss, its gradient (2, width)) by ``DPOTrainer._compute_loss`` for one pair."""
    from trl import DPOTrainer

    two = slice(2 * pair, 2 * pair + 2)
    tokens = torch.tensor(given["tokens"][two], requires_grad=True)
    # The method drops the first column of the mask: position t predicts token t + 1.
    mask = np.pad(given["mask"][two], ((0, 0), (1, 0)))
    reference = torch.tensor(given["reference"][two])
    zeros = torch.zeros_like(tokens)
    outputs = SimpleNamespace(
        log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    trainer = _trainer(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", beta=config.beta,
        loss_types=[kind], loss_weights=[1.0], label_smoothing=config.label_smoothing,
        use_weighting=False, aux_loss_enabled=False,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long),
        "attention_mask": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": torch.tensor(mask).long(),
        "ref_chosen_logps": reference[:1],
        "ref_rejected_logps": reference[1:],
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    loss.backward()
    # Where nothing is trained the model returns 0 whatever the weights: no gradient comes from it.
    return loss.item(), tokens.grad.numpy() * given["mask"][two]


def our_dpo(given: dict[str, np.ndarray], pair: int, config: dpo.Config):
    """(loss, gradient) of a pair by ``methods.dpo.loss``."""
    two = slice(2 * pair, 2 * pair + 2)
    mask = mx.array(given["mask"][two])
    dpo.response_logps = lambda tokens, batch: ((tokens * mask).sum(axis=1), mask.sum(axis=1))
    batch = SimpleNamespace(extra={"reference": mx.array(given["reference"][two])})
    loss = dpo.loss(config)
    value, gradient = mx.value_and_grad(lambda tokens: loss(tokens, batch)[0])(
        mx.array(given["tokens"][two])
    )
    return value.item(), np.array(gradient)


def trl_reward(given: dict[str, np.ndarray], pair: int, config: reward.Config):
    """(loss, its gradient by the two rewards) by ``RewardTrainer.compute_loss``."""
    from trl import RewardTrainer

    rewards = torch.tensor(given["rewards"][2 * pair : 2 * pair + 2], requires_grad=True)
    trainer = _trainer(
        args=SimpleNamespace(center_rewards_coefficient=config.centering or None),
    )
    inputs = {"attention_mask": torch.ones(2, 1)}
    if config.margin:
        inputs["margin"] = torch.tensor(given["margins"][pair : pair + 1])
    outputs = SimpleNamespace(logits=rewards[:, None])
    loss = RewardTrainer.compute_loss(trainer, lambda **_: outputs, inputs)
    loss.backward()
    return loss.item(), rewards.grad.numpy()


def our_reward(given: dict[str, np.ndarray], pair: int, config: reward.Config):
    """(loss, gradient) of a pair by ``methods.reward.loss``."""
    reward.last_hidden = lambda policy, batch: policy.rewards
    example = Example([], [], [], meta={"margin": float(given["margins"][pair])})
    batch = SimpleNamespace(examples=[example], mask=mx.ones((2, 1)))
    loss = reward.loss(config)

    def value_of(rewards: mx.array) -> mx.array:
        return loss(SimpleNamespace(rewards=rewards, reward=lambda r: r), batch)[0]

    value, gradient = mx.value_and_grad(value_of)(
        mx.array(given["rewards"][2 * pair : 2 * pair + 2])
    )
    return value.item(), np.array(gradient)


def difference(ours, theirs) -> float:
    """The larger of the two differences, of the loss and of the gradient."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(ours, theirs, strict=True)]
    return max(float((abs(a - b) / np.maximum(1, abs(b))).max()) for a, b in pairs)


def main() -> int:
    """One line a loss; exit code 1 when a difference is above the limit."""
    parser = arguments(__doc__, ["both"])
    parser.add_argument("-n", type=int, default=200, help="pairs (200)")
    given = parser.parse_args()
    data, worst = rows(given.n), 0.0
    for name, (kind, config) in DPO.items():
        found = max(
            difference(our_dpo(data, pair, config), trl_dpo(data, pair, kind, config))
            for pair in range(given.n)
        )
        report(f"losses: {name}", found, "difference", limit=LIMIT)
        worst = max(worst, found)
    for name, settings in REWARD.items():
        found = max(
            difference(our_reward(data, pair, settings), trl_reward(data, pair, settings))
            for pair in range(given.n)
        )
        report(f"losses: {name}", found, "difference", limit=LIMIT)
        worst = max(worst, found)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
