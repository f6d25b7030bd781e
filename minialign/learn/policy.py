"""A model as training sees it: backbone, head, what is trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign.errors import UserError
from minialign.models.head import FILE as HEAD
from minialign.models.head import RewardHead, load_head
from minialign.models.load import Model
from minialign.models.module import split_head


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
    shared: int = field(default=0)  # batches that shared their prompts, for the report
    separate: int = field(default=0)
    computed: int = field(default=0)  # tokens that went through the model, padding included
    needed: int = field(default=0)  # the same without padding

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


def make_policy(model: Model, reward_head: bool = False) -> Policy:
    """The model as training and scoring see it.

    Raises:
        UserError: when a reward head is wanted of an architecture without hidden states.
    """
    parts = split_head(model.module)
    if parts is None:
        if reward_head:
            raise UserError(
                f"{model.name}: this architecture shows no hidden states to put a reward head on",
                "use a Llama, Qwen, Mistral or SmolLM model",
            )
        parts = (model.module, _identity)  # its own logits then stand for hidden states
    backbone, head = parts
    module = model.module
    return Policy(module, backbone, head, module, share_prompts=plain_cache(module))


def _identity(logits: mx.array) -> mx.array:
    return logits


def add_reward_head(policy: Policy, folder: Path | None) -> None:
    """Put a reward head on a policy: the one in ``folder`` if there is one, else a fresh one."""
    dims = policy.backbone(mx.array([[0]])).shape[-1]
    container = nn.Module()
    container.model = policy.module
    container.reward_head = (
        RewardHead(dims)
        if folder is None or not (folder / HEAD).exists()
        else load_head(folder, dims)
    )
    policy.trainable = container
    policy.reward = container.reward_head
