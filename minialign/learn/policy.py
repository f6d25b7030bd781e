"""A model as training sees it: backbone, head, what is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign.errors import UserError
from minialign.models.head import FILE as HEAD
from minialign.models.head import VALUE_FILE, RewardHead, load_head, load_value_head
from minialign.models.load import Model
from minialign.models.module import split_head


@dataclass
class Counts:
    """What went through a policy's model so far."""

    shared: int = 0  # batches that shared their prompts
    separate: int = 0  # batches that did not
    computed: int = 0  # tokens, padding included
    needed: int = 0  # tokens, without padding

    def padding(self, since: "Counts") -> float:
        """The share of what was computed since then that was padding, 0 to 1."""
        return 1 - (self.needed - since.needed) / max(self.computed - since.computed, 1)

    def batches(self) -> dict[str, int]:
        """How many batches shared their prompts and how many did not, for a run's summary."""
        return {"shared_batches": self.shared, "separate_batches": self.separate}


@dataclass
class Policy:
    """A model as training and scoring see it.

    ``trainable`` is the tree that gradients are taken of: the module with its adapter, or a
    container of it and a head.
    """

    module: nn.Module
    backbone: Any  # (inputs, cache=) -> hidden states (B, T, D)
    head: Any  # hidden (N, D) -> logits (N, V)
    trainable: nn.Module
    reward: Any = None  # hidden (N, D) -> reward (N,), for methods with a reward head
    share_prompts: bool = True
    gradient: bool = True  # whether a backward pass follows
    packs: bool | None = None  # whether the model reads packed rows; None: not tried yet
    counts: Counts = field(default_factory=Counts)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within it nothing is dropped and no backward pass follows; then all is as it was."""
        before = self.trainable.training, self.gradient
        self.trainable.eval()
        self.gradient = False
        try:
            yield
        finally:
            training, self.gradient = before
            self.trainable.train(training)

    @property
    def layers(self) -> int:
        """How many blocks, and so how many caches."""
        return len(self.module.layers)


def plain_cache(module: nn.Module) -> bool:
    """Whether every layer's cache is of plain keys and values, which sharing needs."""
    if not hasattr(module, "make_cache"):
        return True
    kinds = {type(cache).__name__ for cache in module.make_cache()}
    return kinds <= {"KVCache", "RotatingKVCache"}


def make_policy(model: Model, reward_head: bool = False, gradient: bool = True) -> Policy:
    """The model as training and scoring see it; without ``gradient`` no backward pass follows.

    Raises:
        UserError: when a reward head is wanted of an architecture without hidden states.
    """
    module: Any = model.module
    parts = split_head(module)
    if parts is None and reward_head:
        said = "this architecture shows no hidden states to put a reward head on"
        raise UserError(f"{model.name}: {said}", "use a Llama, Qwen, Mistral or SmolLM model")
    backbone, head = parts or (module, lambda logits: logits)  # then logits stand for states
    share = plain_cache(module)
    return Policy(module, backbone, head, module, share_prompts=share, gradient=gradient)


def add_reward_head(policy: Policy, folder: Path | None) -> None:
    """Put a reward head on a policy: the one in ``folder`` if there is one, else a fresh one."""
    dims = hidden_size(policy)
    there = folder is not None and (folder / HEAD).exists()
    policy.reward = load_head(folder, dims) if folder and there else RewardHead(dims)
    train_beside(policy, "reward_head", policy.reward)


def add_value_head(policy: Policy, folder: Path | None) -> tuple[float, float] | None:
    """Put a value head on a policy, the one that a run left in ``folder`` if it left one; returns
    that one's units (shift, scale)."""
    dims, units = hidden_size(policy), None
    head = RewardHead(dims)
    if folder and (folder / VALUE_FILE).exists():
        head, units = load_value_head(folder, dims)
    train_beside(policy, "value_head", head)
    return units


def hidden_size(policy: Policy) -> int:
    """The width of the hidden states, tried on one token."""
    return policy.backbone(mx.array([[0]])).shape[-1]


def train_beside(policy: Policy, name: str, head: nn.Module) -> None:
    """Train a head under this name beside the model's adapter."""
    policy.trainable = nn.Module()
    policy.trainable.model = policy.module
    policy.trainable[name] = head
