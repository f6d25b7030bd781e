"""Keys and values of a prompt, kept for the responses behind it."""

from typing import Any

import mlx.core as mx


class Recorder:
    """A cache that starts empty and keeps the keys and values of one pass: (B, H, P, D) each."""

    offset = 0

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> Any:
        if not return_array and (window_size is None or length <= window_size):
            return "causal"
        rows, columns = mx.arange(length)[:, None], mx.arange(length)[None]
        mask = columns <= rows
        return mask if window_size is None else mask & (rows < columns + window_size)

    def parts(self) -> tuple[mx.array, ...]:
        """The arrays that a checkpointed layer must be given."""
        return ()


class Behind:
    """A cache that holds each row's prompt (right-padded) and is read by one more pass.

    Args:
        keys, values: (N, H, P, D), already one row a response.
        lengths: (N,) tokens of each row's prompt; what lies behind them is padding.
    """

    def __init__(self, keys: mx.array, values: mx.array, lengths: mx.array):
        self.prefix = (keys, values)
        self.offset = lengths

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return (
            mx.concatenate([self.prefix[0], keys], axis=2),
            mx.concatenate([self.prefix[1], values], axis=2),
        )

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """(N, 1, R, P + R), true where a response's token may look."""
        width = self.prefix[0].shape[2]
        lengths = self.offset[:, None, None]
        rows = mx.arange(length)[None, :, None]
        own = mx.broadcast_to(
            mx.arange(length)[None, None] <= rows, (lengths.shape[0], length, length)
        )
        columns = mx.arange(width)[None, None]
        prompt = mx.broadcast_to(columns < lengths, (lengths.shape[0], length, width))
        if window_size is not None:
            prompt = prompt & (lengths + rows < columns + window_size)
            own = own & (rows < mx.arange(length)[None, None] + window_size)
        return mx.concatenate([prompt, own], axis=-1)[:, None]

    def parts(self) -> tuple[mx.array, ...]:
        return self.prefix
