"""Prompts and responses of a batch side by side in one row, without padding.

To the model every token is a row of its own, whose position is the offset of its "cache"; only
attention sees the tokens together, under a mask of blocks: a prompt sees itself, a response its
prompt and itself. So everything but attention costs what the tokens cost, whatever their lengths,
and gradients flow through a shared prompt by themselves. Attention that knows such rows is the
native one's (``cpu.hooks``); whether a model's classes go along is tried, not assumed.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from minialign.learn.batch import Batch

MOST = 8192  # tokens in a row: their mask has as many bytes squared


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the row."""

    tokens: np.ndarray  # (T,) int32
    positions: np.ndarray  # (T,) int32: each prompt begins at 0, each response behind its prompt
    mask: np.ndarray  # (T, T) bool: what a token sees
    predicting: np.ndarray  # (N, R) int32: the token before each of a response's, 0 on padding
    at: np.ndarray  # (N, R) int32: the response's tokens themselves


class Row:
    """The "cache" of every layer: each token's position, and what it may see."""

    packed = True  # what attention looks for

    def __init__(self, layout: Layout):
        self.offset = mx.array(layout.positions)
        self._positions = layout.positions
        self._mask = layout.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """(1, 1, T, T), the same for each of the rows of one token."""
        mask = self._mask
        if window_size is not None:
            mask = mask & (self._positions[:, None] < self._positions[None] + window_size)
        return mx.array(mask)[None, None]


def unpadded(batch: Batch, share: bool) -> int:
    """Tokens of a batch, each prompt once or once a response."""
    if not share:
        return sum(example.tokens for example in batch.examples)
    return sum(len(example.prompt) + sum(map(len, example.responses)) for example in batch.examples)


def layout(batch: Batch, share: bool) -> Layout:
    """The batch in one row; ``share``: each prompt once for all its responses."""
    total, (rows, width) = unpadded(batch, share), batch.responses.shape
    tokens, positions = np.zeros(total, np.int32), np.zeros(total, np.int32)
    mask = np.zeros((total, total), bool)
    predicting, at = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.int32)
    end = row = 0

    def put(ids: list[int], position: int) -> int:
        nonlocal end
        first, end = end, end + len(ids)
        tokens[first:end] = ids
        positions[first:end] = np.arange(position, position + len(ids))
        mask[first:end, first:end] = np.tri(len(ids), dtype=bool)
        return first

    for example in batch.examples:
        length = len(example.prompt)
        for number, response in enumerate(example.responses):
            if number == 0 or not share:
                prompt = put(example.prompt, 0)
            first = put(response, length)
            mask[first:end, prompt : prompt + length] = True
            at[row, : len(response)] = np.arange(first, end)
            predicting[row, : len(response)] = np.arange(first - 1, end - 1)
            predicting[row, 0] = prompt + length - 1
            row += 1
    return Layout(tokens, positions, mask, predicting, at)


def hidden(backbone: Any, layers: int, batch: Batch, share: bool) -> tuple[mx.array, mx.array]:
    """Hidden states (N, R, D) twice: those that predict each of the responses' tokens, and those at
    each token; what lies on padding is arbitrary."""
    where = layout(batch, share)
    row = Row(where)
    states = backbone(mx.array(where.tokens)[:, None], cache=[row] * layers)[:, 0]
    return states[mx.array(where.predicting)], states[mx.array(where.at)]
