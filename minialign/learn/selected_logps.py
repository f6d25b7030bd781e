"""Operations every room shares: log-probs of chosen tokens without ever holding all logits."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from minialign import cpu

cpu.activate()

CHUNK = 512  # rows of logits held at a time: 100 MB for a vocabulary of 49,152

Head = Callable[[mx.array], mx.array]


def _plain(hidden: mx.array, head: Head, targets: mx.array) -> mx.array:
    logits = head(hidden).astype(mx.float32)
    picked = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return picked - cpu.logsumexp(logits)


def _with_jacobian(hidden: mx.array, head: Head, targets: mx.array) -> tuple[mx.array, mx.array]:
    """(log-probs (N,), their derivatives by the hidden states (N, D))."""
    logits = head(hidden).astype(mx.float32)
    picked = mx.take_along_axis(logits, targets[:, None], axis=-1)
    logps = picked - cpu.logsumexp(logits)[:, None]
    direction = -mx.exp(logits - picked + logps)  # minus the softmax
    direction = mx.put_along_axis(
        direction,
        targets[:, None],
        mx.take_along_axis(direction, targets[:, None], axis=-1) + 1,
        axis=-1,
    )
    _, (jacobian,) = mx.vjp(head, [hidden], [direction.astype(hidden.dtype)])
    # Evaluated together, so that no chunk's logits wait for the backward pass.
    jacobian = jacobian.astype(mx.float32)
    return mx.depends(logps[:, 0], jacobian), jacobian


def _differentiable(hidden: mx.array, head: Head, targets: mx.array) -> mx.array:
    @mx.custom_function
    def logps_and_jacobian(hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        return _with_jacobian(hidden, head, targets)

    @logps_and_jacobian.vjp
    def backward(primals, cotangents, outputs):  # type: ignore[no-untyped-def]
        hidden, targets = primals
        gradient = cotangents[0][:, None] * outputs[1]
        return gradient.astype(hidden.dtype), mx.zeros_like(targets)

    both: Any = logps_and_jacobian(hidden, targets)
    return both[0]


def selected_logps(
    hidden: mx.array, head: nn.Module | Head, targets: mx.array, gradient: bool = True
) -> mx.array:
    """log softmax(head(hidden))[target] for each row: (N, D), (N,) -> (N,) float32.

    The head is applied in chunks of rows; with ``gradient`` each chunk also leaves the derivative
    by its hidden states (N, D), so that the backward pass needs no logits and no second softmax.
    A head with trainable parameters (LoRA on it) is differentiated by recomputation instead.
    """
    if hidden.shape[0] == 0:
        return mx.zeros((0,))
    trainable = isinstance(head, nn.Module) and bool(tree_flatten(head.trainable_parameters()))
    if not trainable:
        table = getattr(head, "embedding", head)  # a tied head is its embedding, read across
        if (fast := cpu.selected_logps(hidden, table, targets, gradient)) is not None:
            return fast
    parts: list[mx.array] = []
    for start in range(0, hidden.shape[0], CHUNK):
        rows, wanted = hidden[start : start + CHUNK], targets[start : start + CHUNK]
        if parts:  # one chunk after the other, not all at once
            rows = mx.depends(rows, parts[-1])
        if not gradient:
            parts.append(_plain(rows, head, wanted))
        elif trainable:
            parts.append(_recomputed(rows, head, wanted))  # type: ignore[arg-type]
        else:
            parts.append(_differentiable(rows, head, wanted))
    return mx.concatenate(parts)


def _recomputed(hidden: mx.array, head: nn.Module, targets: mx.array) -> mx.array:
    def logps(parameters: dict, hidden: mx.array) -> mx.array:
        before = head.trainable_parameters()
        head.update(parameters)
        result = _plain(hidden, head, targets)
        head.update(before)
        return result

    return mx.checkpoint(logps)(head.trainable_parameters(), hidden)
