"""Rows in the native decoder of a plain CPU: a whole transformer step is one call.

Prompts are read by the model itself (many tokens at once suit its matmuls); their keys and values
are handed over once, and shared by all the samples of a prompt. ``cpu`` says whether there is a
decoder for a model; what it computes is the model, to float32 noise.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from minialign.engine.kv import BatchRows


class NativeRows:
    """Answers being written; made anew for each use, since it reads the weights as they were."""

    most = 64

    def __init__(self, decoder: Any):
        self.decoder = decoder

    @property
    def lengths(self) -> list[int]:
        return self.decoder.lengths

    def advance(self, tokens: np.ndarray) -> np.ndarray:
        """Append (B, 1) tokens; the logits (B, V) behind them."""
        return np.array(self.decoder.step(tokens[:, 0].tolist()), copy=False)

    def assemble(self, parts: Sequence[tuple["NativeRows | BatchRows", int]]) -> "NativeRows":
        """Its own rows among the parts, which come first, then prompts handed over."""
        self.decoder.keep([index for rows, index in parts if rows is self])
        for (rows, index), same in groupby(parts, key=lambda part: (part[0], part[1])):
            if isinstance(rows, BatchRows):
                keys, values = rows.past(index)
                self.decoder.load_prefix(keys, values, rows=len(list(same)))
        return self

    def replace(self, index: int, other: Any, row: int) -> bool:
        return False
