"""Scalar heads beside the adapter: the reward of an answer, the value of a beginning of one.

The reward head is one linear unit on the last token's hidden state, Ouyang et al. 2022
(arXiv:2203.02155) section 3.5; PPO's value head is such a unit on every token's. Each is a file of
its own, ``reward_head.safetensors`` and ``value_head.safetensors``, so that the adapter stays in
mlx-lm's format.
"""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from minialign.errors import UserError
from minialign.models.adapter import load_arrays, save_weights

FILE = "reward_head.safetensors"
VALUE_FILE = "value_head.safetensors"


class RewardHead(nn.Module):
    """hidden (N, D) -> reward (N,), float32. Starts at zero weights: every reward is 0."""

    def __init__(self, dims: int):
        super().__init__()
        self.weight = mx.zeros((dims,))
        self.bias = mx.zeros((1,))

    def __call__(self, hidden: mx.array) -> mx.array:
        hidden = hidden.astype(mx.float32)
        # The final norm leaves hidden states of size sqrt(D): scale so that learning rates carry
        # over between widths.
        return (hidden * self.weight).sum(axis=-1) / hidden.shape[-1] ** 0.5 + self.bias


def save_head(folder: Path, head: RewardHead) -> None:
    """Write the head beside an adapter."""
    save_weights(folder / FILE, {"weight": head.weight, "bias": head.bias})


def save_value_head(folder: Path, head: RewardHead, units: tuple[float, float]) -> None:
    """Write a value head beside an adapter: a return is shift + scale x what the head gives, with
    (shift, scale) = ``units``."""
    arrays = {"weight": head.weight, "bias": head.bias, "units": mx.array(units)}
    save_weights(folder / VALUE_FILE, arrays)


def load_value_head(folder: Path, dims: int) -> tuple[RewardHead, tuple[float, float]]:
    """(value head, its units) of a run.

    Raises:
        UserError: when it is damaged, or its width is not ``dims``.
    """
    head, path = RewardHead(dims), folder / VALUE_FILE
    weights = load_arrays(path)
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != {"weight": (dims,), "bias": (1,), "units": (2,)}:
        raise UserError(f"{path} is no value head of this model: it holds {shapes}")
    shift, scale = np.array(weights.pop("units"), np.float64)
    head.load_weights(list(weights.items()))
    return head, (float(shift), float(scale))


def load_head(folder: Path, dims: int) -> RewardHead:
    """The reward head of a run.

    Raises:
        UserError: when the run has none, it is damaged, or its width is not ``dims``.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(f"{folder} has no reward head", "train one: minialign reward --data FILE")
    head = RewardHead(dims)
    weights = load_arrays(path)
    shapes = [weights[name].shape for name in ("weight", "bias") if name in weights]
    if len(weights) != 2 or list(map(len, shapes)) != [1, 1] or shapes[1] != (1,):
        held = ", ".join(f"{name} {value.shape}" for name, value in weights.items()) or "nothing"
        raise UserError(f"{path} is no reward head: it holds {held}", "train it again")
    if weights["weight"].shape != (dims,):
        said = f"{path}: the head is {weights['weight'].shape[0]} wide, the model {dims}"
        raise UserError(said, "it was trained on another base model")
    head.load_weights(list(weights.items()))
    return head
