"""What makes MLX fast on a plain CPU; nothing above this room knows how.

``activate()`` is called by ``minialign.learn.selected_logps`` at import, ``prepare(model)`` after a
model is loaded. Both do nothing on a machine whose default device is a GPU.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from minialign.cpu import blas, extension, pure
from minialign.cpu.device import on_cpu
from minialign.cpu.memory import return_memory as return_memory
from minialign.cpu.memory import training_memory as training_memory
from minialign.cpu.memory import trim as trim


@dataclass(frozen=True)
class Status:
    """What is in force, for ``minialign doctor``."""

    device: str  # "cpu" or "gpu"
    blas: str  # the BLAS behind float32 matmuls, and why not a better one
    blas_ok: bool
    kernels: str  # which kernels run, and why not better ones
    native: bool


def activate() -> None:
    """Put the optimized BLAS behind MLX's CPU matmuls (idempotent; only on the CPU device)."""
    if on_cpu():
        blas.install()


def native() -> bool:
    """Whether the native kernels are loaded and in use."""
    return on_cpu() and extension.load()[0] is not None


def kept_bits() -> tuple[int, ...]:
    """List the bits of weights that stay in memory as they are stored (0: not quantized); weights
    of any other bits become float32."""
    if not on_cpu():
        return 0, 2, 3, 4, 5, 6, 8
    return (4, 8) if native() else ()


def prepare(model: nn.Module) -> nn.Module:
    """Swap the modules of a freshly loaded model for ones that are fast here, in place."""
    if native():
        from minialign.cpu import swap

        return swap.prepare(model)
    return pure.prepare(model) if on_cpu() else model


def adapted(model: nn.Module) -> None:
    """Make the adapters of a prepared model fast, in place, after they were attached."""
    if native():
        from minialign.cpu import lora

        lora.prepare(model)


def selected_logps(
    hidden: mx.array, head: object, targets: mx.array, gradient: bool
) -> mx.array | None:
    """Compute ``learn.selected_logps`` natively; None where the kernels do not apply."""
    if not native() or hidden.dtype != mx.float32:
        return None
    from minialign.cpu import modules

    weight = modules.head_weight(head)
    if weight is None:
        return None
    kernels = extension.load()[0]
    return kernels.selected_logps(hidden, targets, *weight, gradient=gradient)  # type: ignore[union-attr]


def softmax(x: mx.array) -> mx.array:
    """Take the softmax over the last dimension; natively where the kernels are in use."""
    if native() and x.dtype == mx.float32:
        return extension.load()[0].softmax(x)  # type: ignore[union-attr]
    return mx.softmax(x, axis=-1)


def logsumexp(x: mx.array) -> mx.array:
    """Take log sum exp over the last dimension, which goes; natively where kernels are in use."""
    if native() and x.dtype == mx.float32:
        return extension.load()[0].logsumexp(x)  # type: ignore[union-attr]
    # By blocks first: one float32 sum over a vocabulary loses the many small terms, 5e-5 a token.
    size = x.shape[-1]
    blocks = min(64, size)
    whole = size // blocks * blocks
    parts = mx.logsumexp(x[..., :whole].reshape(*x.shape[:-1], blocks, -1), axis=-1)
    return mx.logsumexp(mx.concatenate([parts, x[..., whole:]], axis=-1), axis=-1)


def draw(logits: np.ndarray, temperature: float, uniform: np.ndarray) -> np.ndarray | None:
    """Draw a token for each row of logits (B, V) by inverse CDF, with uniform numbers (B,) in
    [0, 1); -1 for a row without a finite largest logit. None where the kernels are not in use."""
    if not native() or logits.dtype != np.float32:
        return None
    rows = np.ascontiguousarray(logits)
    return np.array(extension.load()[0].draw(rows, temperature, uniform), np.int64)  # type: ignore[union-attr]


def decoder(module: nn.Module) -> Any:
    """Make a native decoder that reads this model's weights as they are now, or None."""
    if not native():
        return None
    from minialign.cpu.decode import Decoder

    return Decoder(module) if Decoder.supports(module) else None


def status() -> Status:
    """Say what is in force now."""
    if not on_cpu():
        return Status("gpu", "not used", True, "MLX's own", False)
    ok, text = blas.status()
    loaded, kernels = extension.load()
    if loaded is None:
        kernels = f"MLX's own, on dequantized float32 weights (native kernels: {kernels})"
    return Status("cpu", text, ok, kernels, loaded is not None)
