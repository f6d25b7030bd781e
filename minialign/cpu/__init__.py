"""What makes MLX fast on a plain CPU; nothing above this room knows how.

``activate()`` is called by ``minialign.learn.selected_logps`` at import, ``prepare(model)`` after a
model is loaded. Both do nothing on a machine whose default device is a GPU.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from minialign.cpu import blas, extension, pure


@dataclass(frozen=True)
class Status:
    """What is in force, for ``minialign doctor``."""

    device: str  # "cpu" or "gpu"
    blas: str  # the BLAS behind float32 matmuls, and why not a better one
    blas_ok: bool
    kernels: str  # which kernels run, and why not better ones
    native: bool


def on_cpu() -> bool:
    """Whether MLX's default device is the CPU."""
    return mx.default_device().type == mx.DeviceType.cpu


def activate() -> None:
    """Put the optimized BLAS behind MLX's CPU matmuls (idempotent; only on the CPU device)."""
    if on_cpu():
        blas.install()


def native() -> bool:
    """Whether the native kernels are loaded and in use."""
    return on_cpu() and extension.load()[0] is not None


def kept_bits() -> tuple[int, ...]:
    """Bits of the weights that stay in memory as they are stored, 0 for those that are not
    quantized; all others become float32."""
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
    """After adapters were attached to a prepared model: join what its native layers can share."""
    if native():
        from minialign.cpu import lora

        lora.bring_together(model)


def selected_logps(
    hidden: mx.array, head: object, targets: mx.array, gradient: bool
) -> mx.array | None:
    """The native form of ``ops.selected_logps``, or None where it does not apply."""
    if not native() or hidden.dtype != mx.float32:
        return None
    from minialign.cpu import modules

    weight = modules.head_weight(head)
    if weight is None:
        return None
    kernels = extension.load()[0]
    return kernels.selected_logps(hidden, targets, *weight, gradient=gradient)  # type: ignore[union-attr]


def _glibc(function: str, *arguments: int) -> None:
    if on_cpu() and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*arguments)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_returns = False


def return_memory() -> None:
    """Let glibc give blocks of 1 MB and more back as soon as they are free, instead of keeping
    them for the next ones: a fifth less memory at the peak of a step, a fifth more time."""
    global _returns
    _returns = True
    _glibc("mallopt", _MMAP_THRESHOLD, 1 << 20)
    _glibc("mallopt", _TRIM_THRESHOLD, 1 << 20)


def keep_memory() -> None:
    """Let glibc keep what a step of training has freed for the next one, whose sizes are others:
    the same peak, and a thirtieth less time. Not after ``return_memory``."""
    if not _returns:
        _glibc("mallopt", _MMAP_THRESHOLD, 32 << 20)
        _glibc("mallopt", _TRIM_THRESHOLD, 2**31 - 1)


def trim() -> None:
    """Give back what is free in the heap."""
    _glibc("malloc_trim", 0)


def tidy() -> None:
    """Give back what is free now: MLX's buffers, and the gaps that small arrays left behind."""
    if on_cpu():
        mx.clear_cache()
        trim()


@contextlib.contextmanager
def training_memory(lean: bool) -> Iterator[Callable[[], None]]:
    """Memory as steps of training want it; yields what is to be called where arrays were let go.

    Freed blocks are kept for the next step, unless ``lean`` (activations are recomputed): then
    they are given back at once.
    """
    keep_memory()
    yield tidy if lean else lambda: None


def softmax(x: mx.array) -> mx.array:
    """Over the last dimension; float32 natively where the kernels are in use."""
    if native() and x.dtype == mx.float32:
        return extension.load()[0].softmax(x)  # type: ignore[union-attr]
    return mx.softmax(x, axis=-1)


def logsumexp(x: mx.array) -> mx.array:
    """Over the last dimension, which goes; float32 natively where the kernels are in use."""
    if native() and x.dtype == mx.float32:
        return extension.load()[0].logsumexp(x)  # type: ignore[union-attr]
    # By blocks first: one float32 sum over a vocabulary loses the many small terms, 5e-5 a token.
    size = x.shape[-1]
    blocks = min(64, size)
    whole = size // blocks * blocks
    parts = mx.logsumexp(x[..., :whole].reshape(*x.shape[:-1], blocks, -1), axis=-1)
    return mx.logsumexp(mx.concatenate([parts, x[..., whole:]], axis=-1), axis=-1)


def draw(logits: np.ndarray, temperature: float, uniform: np.ndarray) -> np.ndarray | None:
    """A token of each row of logits (B, V) by inverse-CDF draws from numbers in [0, 1), (B,); -1
    for a row without a finite largest logit. None where the kernels are not in use."""
    if not native() or logits.dtype != np.float32:
        return None
    rows = np.ascontiguousarray(logits)
    return np.array(extension.load()[0].draw(rows, temperature, uniform), np.int64)  # type: ignore[union-attr]


def decoder(module: nn.Module) -> Any:
    """A native decoder that reads this model's weights as they are now, or None."""
    if not native():
        return None
    from minialign.cpu.decode import Decoder

    return Decoder(module) if Decoder.supports(module) else None


def status() -> Status:
    """What is in force now."""
    if not on_cpu():
        return Status("gpu", "not used", True, "MLX's own", False)
    ok, text = blas.status()
    loaded, kernels = extension.load()
    if loaded is None:
        kernels = f"MLX's own, on dequantized float32 weights (native kernels: {kernels})"
    return Status("cpu", text, ok, kernels, loaded is not None)
