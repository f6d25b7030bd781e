"""What the kernel tests share: the extension or a reason to skip, and comparison with MLX."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from minialign import cpu
from minialign.cpu import extension

cpu.activate()
native, REASON = extension.load()
needs_native = pytest.mark.skipif(
    native is None or not cpu.on_cpu(), reason=f"native kernels: {REASON}"
)

TOLERANCE = 5e-6  # of the largest value: float32 sums in another order


def assert_close(ours: mx.array, reference: mx.array, what: str, scale: float = 0.0) -> None:
    """Equal shapes, and equal values to TOLERANCE of the largest (or of ``scale``)."""
    assert ours.shape == reference.shape, what
    if reference.size == 0:
        return
    largest: Any = mx.abs(reference).max().item()
    apart: Any = mx.abs(ours - reference).max().item()
    size = max(largest, scale, 1e-20)
    error = apart / size
    assert error < TOLERANCE, f"{what}: {error:.1e} of the largest value"


def assert_same(ours: Callable, reference: Callable, args: list[mx.array]) -> None:
    """The two functions agree, forward and in the gradient by every argument."""
    expected = reference(*args)
    assert_close(ours(*args), expected, "forward")
    cotangent = mx.random.normal(expected.shape, key=mx.random.key(7))
    gradients = mx.vjp(ours, args, [cotangent])[1]
    for i, pair in enumerate(zip(gradients, mx.vjp(reference, args, [cotangent])[1], strict=True)):
        assert_close(*pair, f"gradient by argument {i}", scale=1e-2)


def lora_linear(x: mx.array, a: mx.array, b: mx.array, scale: float, *weight: Any) -> mx.array:
    """One layer alone."""
    assert native is not None
    words, scales, biases, group, bits = weight if len(weight) > 1 else (*weight, None, None, 0, 32)
    return native.lora_linears(x, [(a, b, scale, words, scales, biases, group, bits)])[0]


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed + sum(shape)))


def quantized(rows: int, cols: int, bits: int, group: int, dtype: mx.Dtype = mx.float32) -> tuple:
    """(the weight as the kernels take it, its float32 value)."""
    words, scales, biases = mx.quantize(normal(rows, cols), group_size=group, bits=bits)
    scales, biases = scales.astype(dtype), biases.astype(dtype)
    value = mx.dequantize(
        words, scales.astype(mx.float32), biases.astype(mx.float32), group_size=group, bits=bits
    )
    return (words, scales, biases, group, bits), value
