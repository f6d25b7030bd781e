"""The sequences a model is writing: what advances by one token at a time.

``Rows`` is the protocol; a native decoder is another class with these methods. ``kv.BatchRows``
holds many rows of a stock mlx-lm module. ``OneRow`` holds a single one behind whatever cache the
model brings along (sliding windows, state spaces).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

# inputs (B, N) int32, a list of caches -> logits (B, V) of the last position
Forward = Callable[[mx.array, list[Any]], mx.array]


class Writing(Protocol):
    """Rows that answers are written in, a token at a time (``Any``: rows they can be made of)."""

    most: int  # how many rows can be held

    @property
    def lengths(self) -> list[int]:
        """Tokens held for each row."""
        ...

    def advance(self, tokens: np.ndarray) -> np.ndarray:
        """Append (B, N) tokens to all rows; returns the logits (B, V) after the last, float32."""
        ...

    def assemble(self, parts: Sequence[tuple[Any, int]]) -> Any:
        """New rows, each a copy of (rows, index)."""
        ...

    def replace(self, index: int, other: Any, row: int) -> bool:
        """Put a copy of a row of ``other`` in place of a row; False when it does not fit."""
        ...


class Rows(Writing, Protocol):
    """Sequences of possibly different lengths behind one model, which prompts are read into too."""

    def fan_out(self, lengths: Sequence[int], width: int) -> Any:
        """New rows that begin with this single row's tokens: row b gets its first ``lengths[b] -
        width`` ones, for its last ``width`` are advanced next."""
        ...

    def truncate(self, length: int) -> int:
        """Forget the single row's tokens behind ``length``; returns how many it still holds."""
        ...


def last_logits(module: nn.Module, split: tuple[Any, Any] | None) -> Forward:
    """The forward pass that computes logits for the last position only.

    Args:
        split: (backbone, head) as ``models.module.split_head`` gives it; None when the module's
            logits are not the head of its hidden states.
    """
    if split is not None:
        backbone, head = split
        return lambda tokens, cache: head(backbone(tokens, cache=cache)[:, -1:])[:, -1]

    def whole(tokens: mx.array, cache: list[Any]) -> mx.array:
        if tokens.shape[1] > 1:
            module(tokens[:, :-1], cache=cache)  # lazy: only its keys and values are computed
        return module(tokens[:, -1:], cache=cache)[:, -1]

    return whole


def on_host(logits: mx.array) -> np.ndarray:
    logits = logits.astype(mx.float32)
    mx.eval(logits)
    return np.array(logits, copy=False)


class OneRow:
    """A single row behind the model's own kind of cache, for models that need theirs."""

    most = 1

    def __init__(self, forward: Forward, make_cache: Callable[[], list[Any]]):
        self.forward = forward
        self.make_cache = make_cache
        self.cache = make_cache()
        self.length = 0

    @property
    def lengths(self) -> list[int]:
        return [self.length]

    def advance(self, tokens: np.ndarray) -> np.ndarray:
        logits = on_host(self.forward(mx.array(tokens.astype(np.int32)), self.cache))
        mx.eval([entry.state for entry in self.cache])
        self.length += tokens.shape[1]
        return logits

    def fan_out(self, lengths: Sequence[int], width: int) -> "OneRow":
        new = self.assemble([(self, 0)])
        if new.truncate(lengths[0] - width) != lengths[0] - width:
            raise ValueError("this model's cache cannot go back to a shorter prefix")
        return new

    def assemble(self, parts: Sequence[tuple["OneRow", int]]) -> "OneRow":
        ((source, _),) = parts
        new = OneRow(self.forward, self.make_cache)
        new.cache, new.length = copy.deepcopy(source.cache), source.length
        return new

    def replace(self, index: int, other: "OneRow", row: int) -> bool:
        self.cache, self.length = copy.deepcopy(other.cache), other.length
        return True

    def truncate(self, length: int) -> int:
        if length >= self.length:
            return self.length
        if all(entry.is_trimmable() for entry in self.cache):
            for entry in self.cache:
                entry.trim(self.length - length)
            self.length = length
        else:
            self.cache, self.length = self.make_cache(), 0
        return self.length


def ragged_agrees(root: Rows) -> bool:
    """Whether two rows of different lengths in a batch get the logits that each gets alone."""
    prompts = [[1, 2, 3, 4, 5], [6, 7]]
    try:
        alone = []
        for prompt in prompts:
            row = root.fan_out([len(prompt)], len(prompt))
            row.advance(np.array([prompt]))
            alone.append(row.advance(np.array([[8]]))[0])
        rows = root.fan_out([5, 2], 5)
        rows.advance(np.array([prompts[0], [0, 0, 0, *prompts[1]]]))
        together = rows.advance(np.array([[8], [8]]))
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return False
    return bool(np.abs(together - np.stack(alone)).max() <= 0.02 * np.ptp(alone))
