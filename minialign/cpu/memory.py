"""What glibc and MLX keep of the memory that was freed, and when it goes back to the system.

Training frees and takes large arrays at every step. On a GPU, and with another C library than
glibc, nothing here does anything.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator

import mlx.core as mx

from minialign.cpu.device import on_cpu

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them
_returns = False


@contextlib.contextmanager
def training_memory(lean: bool) -> Iterator[Callable[[], None]]:
    """Hold memory as steps of training need it; yields what they call where arrays were let go.

    What a step has freed is kept for the next, see ``keep_memory``, and the yielded function does
    nothing. ``lean`` training, whose activations are recomputed, pays time for a lower peak: see
    ``return_memory``, and the function is ``tidy``. Call it when a batch's loss is known, before
    its gradients are computed, and at the end of a step.
    """
    if lean:
        return_memory()
    else:
        keep_memory()
    yield tidy if lean else lambda: None


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


def _glibc(function: str, *arguments: int) -> None:
    if on_cpu() and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*arguments)
