"""Keys and values of many rows behind a stock mlx-lm module; rows come and go."""

import weakref
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from minialign.engine.rows import Forward, on_host
from minialign.learn.batch import round_up

STEP = 256  # columns by which a cache grows while it is written token by token
PROMPT_STEP = 16  # and for a prompt, whose rows another decoder may take over


class BatchRows:
    """Keys and values of B rows, right-aligned: every row's next token goes into the same column.

    Row b begins at column ``starts[b]``; what is left of that, padding or a former row's rest, is
    masked. Appending writes one column for all rows in place, which a ragged layout could not.
    """

    most = 4096

    def __init__(self, forward: Forward, layers: int, rows: int = 1):
        self.forward = forward
        self.starts = np.zeros(rows, np.int64)
        self.end = 0
        self.layers = [_Layer(self) for _ in range(layers)]
        self.capacity = 0
        self._offset: tuple[int, Any] = (-1, None)  # of the column asked for last

    @property
    def lengths(self) -> list[int]:
        return [int(self.end - start) for start in self.starts]

    def advance(self, tokens: np.ndarray) -> np.ndarray:
        width = tokens.shape[1]
        self._reserve(width)
        logits = on_host(self.forward(mx.array(tokens.astype(np.int32)), self.layers))
        self.end += width
        return logits

    def offset(self, column: int) -> int | mx.array:
        """The position of ``column`` in every row: one number, or (B,) int32 when they differ."""
        if self._offset[0] != column:
            positions = column - self.starts
            same = (positions == positions[0]).all()
            value = int(positions[0]) if same else mx.array(positions.astype(np.int32))
            self._offset = (column, value)
        return self._offset[1]

    def mask(self, first: int, width: int, window: int | None, as_array: bool) -> Any:
        """What ``width`` columns from ``first`` on may look at: None, "causal" or (B|1, 1, N, T).

        A query in the padding sees itself, so that its softmax is a number.
        """
        padded = bool(self.starts.any())
        if not padded and window is None and not as_array:
            return None if width == 1 else "causal"
        queries = mx.arange(first, first + width)[:, None]
        columns = mx.arange(first + width)[None]
        allowed = columns <= queries
        if window is not None:
            allowed = allowed & (columns > queries - window)
        allowed = allowed[None, None]
        if padded:
            starts = mx.array(self.starts.astype(np.int32))[:, None, None, None]
            allowed = (allowed & (columns >= starts)) | (columns == queries)
        return allowed

    def fan_out(self, lengths: Sequence[int], width: int) -> "BatchRows":
        new = self._copy([(self, 0, max(0, length - width)) for length in lengths])
        new.starts = new.end + width - np.asarray(lengths)
        return new

    def assemble(self, parts: Sequence[tuple["BatchRows", int]]) -> "BatchRows":
        return self._copy([(rows, index, rows.lengths[index]) for rows, index in parts])

    def _copy(self, parts: Sequence[tuple["BatchRows", int, int]]) -> "BatchRows":
        """New rows that hold the first ``length`` tokens of each (rows, index, length)."""
        new = BatchRows(self.forward, len(self.layers), len(parts))
        new.end = max(length for _, _, length in parts)
        new.starts = np.array([new.end - length for _, _, length in parts])
        if new.end == 0:
            return new
        new.capacity = round_up(new.end + 1, PROMPT_STEP)
        for number, layer in enumerate(new.layers):
            for name in ("keys", "values"):
                pieces = [
                    _window(getattr(rows.layers[number], name), indices, end, new.end)
                    for rows, end, indices in _runs(parts)
                ]
                buffer = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=0)
                setattr(layer, name, _widen(buffer, new.capacity - new.end, left=False))
            layer.end = new.end
        mx.eval([(layer.keys, layer.values) for layer in new.layers])
        return new

    def past(self, row: int) -> tuple[list[mx.array], list[mx.array]]:
        """(keys, values) of one row: (1, heads, length, D) for each layer."""
        held = slice(int(self.starts[row]), self.end)
        keys = [layer.keys[row : row + 1, :, held] for layer in self.layers]  # type: ignore[index]
        values = [layer.values[row : row + 1, :, held] for layer in self.layers]  # type: ignore[index]
        return keys, values

    def replace(self, index: int, other: "BatchRows", row: int) -> bool:
        length = other.lengths[row]
        if length > self.end:
            return False
        for layer, source in zip(self.layers, other.layers, strict=True):
            for name in ("keys", "values"):
                columns = getattr(source, name)[row, :, other.end - length : other.end]
                getattr(layer, name)[index, :, self.end - length : self.end] = columns
        self.starts[index] = self.end - length
        self._offset = (-1, None)
        return True

    def truncate(self, length: int) -> int:
        self.end = min(self.end, int(self.starts[0]) + length)
        for layer in self.layers:
            layer.end = self.end
        return self.lengths[0]

    def _reserve(self, width: int) -> None:
        """Room for ``width`` more columns: drop what no row uses any more, else grow."""
        if self.end + width <= self.capacity:
            return
        unused = int(self.starts.min())
        if unused < max(width, self.capacity // 4):
            unused = 0
        grown = round_up(self.end - unused + width, STEP if width == 1 else PROMPT_STEP)
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                used = grown - (self.end - unused)
                layer.keys = _widen(layer.keys[:, :, unused : self.end], used, left=False)
                layer.values = _widen(layer.values[:, :, unused : self.end], used, left=False)
            layer.end = self.end - unused
        self.starts = self.starts - unused
        self.end -= unused
        self.capacity = grown
        self._offset = (-1, None)


class _Layer:
    """One layer's keys and values, in the shape of mlx-lm's cache protocol."""

    def __init__(self, rows: BatchRows):
        # Weak: in a cycle, the keys and values of one prompt after another would stay in memory
        # until Python looks for cycles.
        self.rows = weakref.proxy(rows)
        self.end = 0
        self.keys: mx.array | None = None  # (B, heads, capacity, D)
        self.values: mx.array | None = None

    @property
    def offset(self) -> int | mx.array:
        return self.rows.offset(self.end)

    @property
    def state(self) -> tuple[mx.array | None, mx.array | None]:
        return self.keys, self.values

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.keys is None or self.values is None:
            room = self.rows.capacity - keys.shape[2]
            self.keys = _widen(keys, room, left=False)
            self.values = _widen(values, room, left=False)
            self.end = keys.shape[2]
        else:
            first, self.end = self.end, self.end + keys.shape[2]
            self.keys[:, :, first : self.end] = keys
            self.values[:, :, first : self.end] = values
        return self.keys[:, :, : self.end], self.values[:, :, : self.end]

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        return self.rows.mask(self.end, N, window_size, return_array)


def _widen(buffer: mx.array, columns: int, *, left: bool) -> mx.array:
    if columns == 0:
        return buffer
    shape = (*buffer.shape[:2], columns, buffer.shape[3])
    zeros = mx.zeros(shape, buffer.dtype)
    return mx.concatenate([zeros, buffer] if left else [buffer, zeros], axis=2)


def _window(buffer: mx.array, indices: list[int], end: int, columns: int) -> mx.array:
    """The last ``columns`` columns before ``end`` of the rows ``indices``, zeros where there are
    none; (len(indices), heads, columns, D)."""
    first = max(0, end - columns)
    taken = buffer[:, :, first:end]
    if indices != list(range(buffer.shape[0])):
        taken = taken[mx.array(indices)]
    return _widen(taken, columns - (end - first), left=True)


def _runs(parts: Sequence[tuple[Any, int, int]]) -> list[tuple[Any, int, list[int]]]:
    """Neighbouring parts that end in the same column of the same rows: (rows, end, [indices])."""
    runs: list[tuple[Any, int, list[int]]] = []
    for rows, index, length in parts:
        end = int(rows.starts[index]) + length
        if runs and runs[-1][0] is rows and runs[-1][1] == end:
            runs[-1][2].append(index)
        else:
            runs.append((rows, end, [index]))
    return runs
